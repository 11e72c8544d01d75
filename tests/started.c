/* Preloaded into the programs of a machine: appends what each was started with, and what it starts, to RECORD.
 *
 * A record is the words and the environment, each ended by a zero byte, and one more. What is linked statically, as
 * most programs in Go are, is recorded by the program that starts it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { AT_ONCE = 1000 }; /* of at most IOV_MAX */

static int add(struct iovec *parts, int count, int file, char *const *words) {
  for (; words && *words; words++) {
    parts[count].iov_base = *words;
    parts[count++].iov_len = strlen(*words) + 1;
    if (count == AT_ONCE - 1) {
      (void)!writev(file, parts, count);
      count = 0;
    }
  }
  return count;
}

/* No memory is allocated: this may be a child that shares its parent's. */
static void record(char *const *words, char *const *environment) {
  struct iovec parts[AT_ONCE];
  int saved = errno, count, file = open(RECORD, O_WRONLY | O_APPEND | O_CLOEXEC);

  if (file >= 0) {
    count = add(parts, 0, file, words);
    count = add(parts, count, file, environment);
    parts[count].iov_base = "";
    parts[count++].iov_len = 1;
    (void)!writev(file, parts, count);
    close(file);
  }
  errno = saved;
}

__attribute__((constructor)) static void started(int count, char **words, char **environment) {
  (void)count;
  record(words, environment);
}

int execve(const char *path, char *const words[], char *const environment[]) {
  record(words, environment);
  return (int)syscall(SYS_execve, path, words, environment);
}
