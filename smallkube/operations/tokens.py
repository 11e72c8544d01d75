"""New API tokens without an outage: the new one beside the old, everybody switched and seen, the old one gone.

Where a rotation stands follows from keys/ alone: a token whose ``.old`` is there is between the two. The API server
reads its table at start only and knows both; clients use the one without ``.old``. Going back, before the old ones are
gone, makes them the current ones again, with the new ones as ``.new`` beside them, and goes on as ever.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from smallkube.core.errors import SmallkubeError, UsageError
from smallkube.core.workspace import Workspace
from smallkube.deploy.report import Watcher
from smallkube.deploy.rollout import roll_out
from smallkube.inventory.models import Inventory
from smallkube.kube import token_clients
from smallkube.kube.token_users import User
from smallkube.remote.host import Connect
from smallkube.secrets import change, kinds
from smallkube.secrets.age import Master
from smallkube.secrets.change import Contents
from smallkube.secrets.policy import Kind
from smallkube.secrets.store import Keys, changing_keys, read_keys


@dataclass(frozen=True)
class Plan:
    """``begin`` get a new token; ``between`` have one already, beside the old; ``back`` get the old one again.

    ``ending``: all is done in keys/, but the primary has not been told.
    """

    begin: tuple[User, ...]
    between: tuple[User, ...]
    back: tuple[User, ...] = ()
    ending: bool = False

    @property
    def users(self) -> tuple[User, ...]:
        return (*self.begin, *self.between)

    @property
    def steps(self) -> tuple[str, ...]:
        """What will be done, in words."""
        if self.ending:
            return ("deploy: the former tokens are gone from keys/ but not from the primary",)
        names = _names(self.users)
        first = f"make new tokens for {_names(self.begin)}; the old ones stay beside them"
        return (
            *((first,) if self.begin else ()),
            *((f"make the old tokens of {_names(self.back)} the current ones again",) if self.back else ()),
            "deploy: the API server knows both, clients take up the current ones",
            "try each token, wait until every client is seen with its current one",
            f"remove the others of {names}",
            "deploy, and see them refused",
        )


def _names(users: Sequence[User]) -> str:
    return ", ".join(user.short for user in users)


@dataclass(frozen=True)
class Outcome:
    """Short names of users with a new token, and those whose former token is proven to be refused."""

    rotated: tuple[str, ...]
    refused: tuple[str, ...]


def make(keys: Keys, wanted: Sequence[User], everybody: Sequence[User], deployed: Sequence[str], *, back: bool) -> Plan:
    """What is to be done: what was begun is finished first, and alone.

    ``deployed`` are the names of secrets under /run/agenix of the primary. Raises UsageError.
    """
    between = tuple(user for user in everybody if user.secret.other(keys.files))
    if between:
        return Plan((), between, tuple(user for user in between if back and user.secret.old.file in keys.files))
    if back:
        raise UsageError("no rotation is under way", hint="only one that has not ended can be taken back")
    if any(row.name in deployed for user in everybody for row in user.secret.beside):
        return Plan((), (), ending=True)
    missing = [user.secret.file for user in wanted if user.secret.file not in keys.files]
    if missing:
        raise UsageError(f"missing: {', '.join(missing)}", where="keys/", hint="run `inv keys.generate`")
    return Plan(tuple(wanted), ())


@dataclass(frozen=True)
class Rotation:
    """What it takes to carry out a plan; ``seconds``: how long clients may take to switch."""

    workspace: Workspace
    inventory: Inventory
    master: Master
    connect: Connect
    watcher: Watcher
    seconds: int

    def execute(self, plan: Plan, step: Callable[[str], object]) -> Outcome:
        """Carry out ``plan``. Raises SmallkubeError at a step that failed: the same again goes on from there."""
        if plan.ending:
            step("deploy without the former tokens")
            roll_out(self.workspace, self.inventory, self.inventory.nodes, self.watcher)
            return Outcome((), ())
        self._write(plan)
        keys = read_keys(self.workspace)
        current = {user.short: change.opened(keys, self.master, user.secret) for user in plan.users}
        others = {user.short: row for user in plan.users if (row := user.secret.other(keys.files))}
        former = {name: change.opened(keys, self.master, row) for name, row in others.items()}
        step("deploy both tokens")
        roll_out(self.workspace, self.inventory, self.inventory.nodes, self.watcher)
        step("try the tokens")
        self._expect({f"{name} current": token for name, token in current.items()}, "accepted")
        self._expect({f"{name} former": token for name, token in former.items()}, "accepted")
        step("wait until every client uses the current one")
        self._await({name: token_clients.sha256(token) for name, token in current.items()})
        with changing_keys(self.workspace):
            change.apply(self.workspace, self.inventory, Contents({}, {}, tuple(others.values())))
        step("deploy without the former tokens")
        roll_out(self.workspace, self.inventory, self.inventory.nodes, self.watcher)
        step("see the former tokens refused")
        self._expect({f"{name} former": token for name, token in former.items()}, "refused")
        self._expect({f"{name} current": token for name, token in current.items()}, "accepted")
        return Outcome(tuple(current), tuple(former))

    def _write(self, plan: Plan) -> None:
        with changing_keys(self.workspace):
            if plan.begin:
                new = {user.secret: kinds.make(Kind.TOKEN, ()) for user in plan.begin}
                contents = Contents(new, {user.secret.old: user.secret for user in plan.begin})
            elif plan.back:
                rows = [user.secret for user in plan.back]
                files = {row: row.old for row in rows} | {row.new: row for row in rows}
                contents = Contents({}, files, tuple(row.old for row in rows))
            else:
                return
            change.apply(self.workspace, self.inventory, contents)

    def _expect(self, tokens: Mapping[str, bytes], wanted: token_clients.Answer) -> None:
        with self.connect(self.inventory.primary) as primary:
            found = token_clients.attempt(primary, tokens)
        if wrong := [f"{name} token is {answer}" for name, answer in found.items() if answer != wanted]:
            hint = "run the same command again; inv tokens.status says more"
            raise SmallkubeError(f"the API server: {', '.join(wrong)}, not {wanted}", hint=hint)

    def _await(self, wanted: Mapping[str, str]) -> None:
        deadline = time.monotonic() + self.seconds
        while True:
            found, silent = token_clients.holders(self.inventory, self.connect)
            waiting = [*token_clients.behind(found, wanted), *(f"{node} ({why})" for node, why in silent.items())]
            if not waiting:
                return
            if time.monotonic() > deadline:
                hint = "the former tokens still work; run the same command again when they are back"
                raise SmallkubeError(f"not seen with the current token: {', '.join(waiting)}", hint=hint)
            time.sleep(1)
