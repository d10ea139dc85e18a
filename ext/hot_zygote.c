/* hot_zygote.c - the zygote's loop: forks workers, reaps them and reports, without running any Python.
 *
 * Purpose: a worker shares every page with the zygote that neither has written since the fork. Running Python writes
 * reference counts all over the heap, so a loop in Python would cost each worker about a megabyte; this one writes
 * nothing that is shared.
 * Guarantees: each order is answered by FORKED (with the worker's pidfd and the ends to read of two pipes) or
 * NOT_FORKED; each worker's end by EXITED. A child that has ended is killed as a group before it is reaped: until then
 * its process id can be nobody else's. Standard output and error of a worker, and of what it starts, are the pipes.
 * Assumes: a single-threaded process, a SOCK_SEQPACKET socket to the node, SIGCHLD not used by anyone else here. */
#include "hot.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct order { uint32_t slot, epoch; uint64_t commands; uint32_t commands_generation, reserved; };
#define MANY_CHILDREN 64 /* from here on what they give back is more than moving the zygote's memory takes */
enum report_kind { REPORT_FORKED = 1, REPORT_NOT_FORKED, REPORT_EXITED };
struct report { uint32_t kind, slot, epoch; int32_t pid, value; }; /* value: errno, or the wait status */
struct child { pid_t pid; uint32_t slot, epoch; };
struct pipes { int output[2], errors[2]; }; /* as pipe(2) gives them: to read, to write */
struct zygote {
  int node, node_pidfd, signals;
  int driver_pidfd;       /* -1: none, or it has ended */
  double patience_s;      /* how long the node may outlive the driver */
  uint64_t node_due_ns;   /* it should have ended by then; 0: its driver lives */
  struct sigaction interrupt; /* what SIGINT does in the workers: here it is ignored */
  struct child *children;
  size_t count, room;
};

enum { PIDFD, OUTPUT, ERRORS, SENT }; /* the descriptors that come with FORKED */

static bool tell_with(struct zygote *zygote, struct report report, const int *descriptors, size_t count) {
  struct iovec part = {&report, sizeof report};
  union { struct cmsghdr header; char room[CMSG_SPACE(SENT * sizeof(int))]; } control = {0};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (count > 0) {
    message.msg_control = &control;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), descriptors, count * sizeof(int));
  }
  ssize_t sent;
  do sent = sendmsg(zygote->node, &message, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent == (ssize_t)sizeof report;
}

static bool tell(struct zygote *zygote, struct report report) { return tell_with(zygote, report, NULL, 0); }

static bool refuse(struct zygote *zygote, const struct order *order, int why) {
  return tell(zygote, (struct report){REPORT_NOT_FORKED, order->slot, order->epoch, 0, why});
}

static bool remember(struct zygote *zygote, pid_t pid, const struct order *order) {
  if (zygote->count == zygote->room) {
    size_t room = zygote->room ? zygote->room * 2 : 64;
    struct child *larger = realloc(zygote->children, room * sizeof *larger);
    if (!larger) return false;
    zygote->children = larger;
    zygote->room = room;
  }
  zygote->children[zygote->count++] = (struct child){pid, order->slot, order->epoch};
  return true;
}

static bool born(struct zygote *zygote, pid_t pid, const struct order *order, const struct pipes *pipes) {
  (void)setpgid(pid, pid); /* the child does so too: either may be first */
  if (!remember(zygote, pid, order)) {
    (void)kill(pid, SIGKILL); /* unknown, it would be reaped without a word */
    return refuse(zygote, order, ENOMEM);
  }
  int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (pidfd < 0) {
    int why = errno;
    zygote->count--; /* its end is nobody's business then */
    (void)kill(pid, SIGKILL);
    return refuse(zygote, order, why);
  }
  const int sent[SENT] = {[PIDFD] = pidfd, [OUTPUT] = pipes->output[0], [ERRORS] = pipes->errors[0]};
  bool told = tell_with(zygote, (struct report){REPORT_FORKED, order->slot, order->epoch, pid, 0}, sent, SENT);
  close(pidfd);
  return told;
}

static bool pipes_init(struct pipes *pipes) {
  if (pipe2(pipes->output, O_CLOEXEC) < 0) return false;
  if (pipe2(pipes->errors, O_CLOEXEC) == 0) return true;
  int why = errno;
  close(pipes->output[0]);
  close(pipes->output[1]);
  errno = why;
  return false;
}

static void pipes_fini(struct pipes *pipes) {
  for (int end = 0; end < 2; end++) {
    close(pipes->output[end]);
    close(pipes->errors[end]);
  }
}

/* In the child: standard output and error are the pipes, and what C code prints is written at each line's end. */
static void print_into(struct pipes *pipes) {
  dup2(pipes->output[1], STDOUT_FILENO);
  dup2(pipes->errors[1], STDERR_FILENO);
  pipes_fini(pipes);
  (void)setvbuf(stdout, NULL, _IOLBF, 0);
}

/* In the child: a group of its own, and death with the zygote. */
static void settle_in(struct zygote *zygote, pid_t parent, struct pipes *pipes) {
  sigset_t set;
  (void)setpgid(0, 0);
  (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1); /* it died before it could take this process along */
  close(zygote->node);
  close(zygote->signals);
  print_into(pipes);
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigaction(SIGINT, &zygote->interrupt, NULL);
  sigprocmask(SIG_UNBLOCK, &set, NULL);
  free(zygote->children);
  PyOS_AfterFork_Child();
}

/* 1: this is the child; 0: go on; -1: the node is gone. */
static int take_order(struct zygote *zygote, struct order *order) {
  ssize_t got = recv(zygote->node, order, sizeof *order, MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  if (got != (ssize_t)sizeof *order) return -1;
  struct pipes pipes;
  if (zygote->count >= MANY_CHILDREN) hot_move_memory();
  if (!pipes_init(&pipes)) return refuse(zygote, order, errno) ? 0 : -1;
  pid_t parent = getpid(), pid = fork();
  if (pid == 0) {
    settle_in(zygote, parent, &pipes);
    return 1;
  }
  bool told = pid < 0 ? refuse(zygote, order, errno) : born(zygote, pid, order, &pipes);
  pipes_fini(&pipes);
  return told ? 0 : -1;
}

/* False: the node is gone. */
static bool bury(struct zygote *zygote, pid_t pid) {
  int status = 0;
  for (size_t i = 0; i < zygote->count; i++) {
    struct child child = zygote->children[i];
    if (child.pid != pid) continue;
    (void)kill(-pid, SIGKILL);
    (void)waitpid(pid, &status, 0);
    zygote->children[i] = zygote->children[--zygote->count];
    return tell(zygote, (struct report){REPORT_EXITED, child.slot, child.epoch, pid, status});
  }
  (void)waitpid(pid, &status, 0); /* an orphan of a worker's */
  return true;
}

static bool reap(struct zygote *zygote) {
  struct signalfd_siginfo unused;
  while (read(zygote->signals, &unused, sizeof unused) > 0) {}
  for (;;) {
    siginfo_t ended = {0};
    if (waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT) < 0 || ended.si_pid == 0) return true;
    if (!bury(zygote, ended.si_pid)) return false;
  }
}

static int wait_ms(const struct zygote *zygote) {
  if (zygote->node_due_ns == 0) return -1;
  uint64_t now_ns = af_now_ns();
  return now_ns >= zygote->node_due_ns ? 0 : (int)((zygote->node_due_ns - now_ns) / 1000000u) + 1;
}

/* The driver has ended: its node sees that itself, unless it is stopped. */
static void expect_end(struct zygote *zygote) {
  zygote->driver_pidfd = -1;
  zygote->node_due_ns = af_now_ns() + (uint64_t)(zygote->patience_s * 1e9);
}

static int zygote_loop(struct zygote *zygote, struct order *order) {
  for (;;) {
    struct pollfd polled[4] = {{zygote->signals, POLLIN, 0}, {zygote->node_pidfd, POLLIN, 0}, {zygote->node, POLLIN, 0},
                               {zygote->driver_pidfd, POLLIN, 0}};
    int found = poll(polled, 4, wait_ms(zygote));
    if (found < 0 && errno != EINTR) return -1;
    if (found == 0) {
      (void)syscall(SYS_pidfd_send_signal, zygote->node_pidfd, SIGKILL, NULL, 0);
      return -1;
    }
    if (polled[0].revents && !reap(zygote)) return -1;
    if (polled[1].revents) return -1;
    if (polled[3].revents) expect_end(zygote);
    if (polled[2].revents) {
      int status = take_order(zygote, order);
      if (status != 0) return status;
    }
  }
}

/* serve_zygote(node socket, node pidfd, driver pidfd or -1, seconds that the node may outlive it) -> in each child (slot, epoch, command mailbox); in the zygote None, at its end */
static PyObject *serve_zygote(PyObject *module, PyObject *args) {
  (void)module;
  struct zygote zygote = {0};
  struct order order;
  sigset_t set;
  if (!PyArg_ParseTuple(args, "iiid", &zygote.node, &zygote.node_pidfd, &zygote.driver_pidfd, &zygote.patience_s))
    return NULL;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigprocmask(SIG_BLOCK, &set, NULL);
  sigaction(SIGINT, &(struct sigaction){.sa_handler = SIG_IGN}, &zygote.interrupt);
  zygote.signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  if (zygote.signals < 0) return PyErr_SetFromErrno(PyExc_OSError);
  PyOS_BeforeFork(); /* once for all forks: each child undoes it, and here it is undone at the end */
  if (zygote_loop(&zygote, &order) == 1)
    return Py_BuildValue("(II(KI))", order.slot, order.epoch, (unsigned long long)order.commands, order.commands_generation);
  PyOS_AfterFork_Parent();
  close(zygote.signals);
  free(zygote.children);
  Py_RETURN_NONE;
}

/* Importing leaves holes in the heap; what is forked after this does not have them. */
static PyObject *trim_memory(PyObject *module, PyObject *unused) {
  (void)module, (void)unused;
#ifdef __GLIBC__
  (void)malloc_trim(0);
#endif
  Py_RETURN_NONE;
}

static PyMethodDef functions[] = {{"serve_zygote", serve_zygote, METH_VARARGS, NULL},
                                  {"trim_memory", trim_memory, METH_NOARGS, NULL},
                                  {NULL, NULL, 0, NULL}};

int hot_add_zygote(PyObject *module) { return PyModule_AddFunctions(module, functions); }
