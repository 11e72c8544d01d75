"""Whether git has, or would take, what must stay on this machine."""

from smallkube.core import process
from smallkube.core.workspace import Workspace


def exposed(workspace: Workspace) -> dict[str, tuple[str, str]]:
    """File in the workspace → what is wrong, and the command that fixes it; nothing where no git or work tree is."""
    master, state = workspace.relative(workspace.master_key), workspace.relative(workspace.state_dir)
    fixes = {master: f"echo /{workspace.master_key.name} >> keys/.gitignore"}
    if workspace.state_dir.is_dir():
        fixes[f"{state}/kubeconfig"] = f"echo '*' > {state}/.gitignore"

    def names(*arguments: str) -> list[str] | None:
        done = process.run(["git", "-C", workspace.root, *arguments], timeout=20)
        return done.stdout.replace("\0", "\n").splitlines() if done.status in (0, 1) else None

    tracked = names("ls-files", "-z", "--", master, state) if process.find("git") else None
    if tracked is None:
        return {}
    ignored = names("check-ignore", "--no-index", "--", *fixes) or []
    found = {name: ("git does not ignore it", fix) for name, fix in fixes.items() if name not in ignored}
    fault = "is tracked by git: each clone of the repository has it"
    return found | {name: (fault, f"git rm --cached {name}") for name in tracked}
