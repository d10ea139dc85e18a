/* hot_print.c - writes what Python code in a worker prints, each piece under the title of the call that prints it.
 *
 * Purpose: the node reads what a worker prints from a pipe, long after: the pipe itself has to say whose it is.
 * Guarantees: a piece and the header before it are one write of at most PIPE_BUF bytes, so nothing that C code or
 * another process writes comes between them. Where user code has put something else at the descriptor, it gets the
 * plain bytes. The layout of the header is actorflow/wire/printed.py's. */
#include "hot.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct __attribute__((packed)) header { char mark[3]; uint16_t size; uint8_t title_size; };

static bool is_pipe(int descriptor, unsigned long long inode) {
  struct stat facts;
  return fstat(descriptor, &facts) == 0 && S_ISFIFO(facts.st_mode) && facts.st_ino == inode;
}

/* How many of the bytes were written, or -1 with errno. */
static ssize_t write_piece(int descriptor, const char *data, size_t size, const Py_buffer *title) {
  struct header header = {{0, 0x16, 0}, 0, (uint8_t)title->len};
  size_t room = PIPE_BUF - sizeof header - (size_t)title->len;
  if (size > room) size = room;
  header.size = (uint16_t)size;
  struct iovec parts[3] = {{&header, sizeof header}, {title->buf, (size_t)title->len}, {(void *)(uintptr_t)data, size}};
  return writev(descriptor, parts, 3) < 0 ? -1 : (ssize_t)size;
}

static bool write_all(int descriptor, const Py_buffer *data, const Py_buffer *title, bool named) {
  for (Py_ssize_t done = 0; done < data->len;) {
    const char *next = (const char *)data->buf + done;
    size_t left = (size_t)(data->len - done);
    ssize_t written;
    Py_BEGIN_ALLOW_THREADS
    written = named ? write_piece(descriptor, next, left, title) : write(descriptor, next, left);
    Py_END_ALLOW_THREADS
    if (written >= 0) done += written;
    else if (errno != EINTR) return PyErr_SetFromErrno(PyExc_OSError) != NULL;
    else if (PyErr_CheckSignals() < 0) return false;
  }
  return true;
}

/* print_titled(descriptor, inode of the pipe, title, data) -> bytes written, which is all of them */
static PyObject *print_titled(PyObject *module, PyObject *args) {
  (void)module;
  int descriptor;
  unsigned long long inode;
  Py_buffer title, data;
  if (!PyArg_ParseTuple(args, "iKy*y*", &descriptor, &inode, &title, &data)) return NULL;
  PyObject *written = NULL;
  if (title.len > UINT8_MAX) PyErr_SetString(PyExc_ValueError, "a title has at most 255 bytes");
  else if (write_all(descriptor, &data, &title, is_pipe(descriptor, inode))) written = PyLong_FromSsize_t(data.len);
  PyBuffer_Release(&title);
  PyBuffer_Release(&data);
  return written;
}

static PyMethodDef functions[] = {{"print_titled", print_titled, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};

int hot_add_print(PyObject *module) { return PyModule_AddFunctions(module, functions); }
