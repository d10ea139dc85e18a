/* hot_moved.c - the zygote's memory as a file that its children map: what they copied and did not change they give back.
 *
 * Purpose: a child copies each page that it writes, and Python writes reference counts to whatever it touches, mostly
 * to put them back at once. A quarter of what a worker has copied after its first call is equal to the zygote's. Of
 * anonymous memory such a copy is the child's for good; of a private mapping of a file it can be dropped (MADV_DONTNEED)
 * and the next look finds the file's page again. So a zygote of many children moves its writable memory, in place, into
 * a memfd that it maps privately. Forks then have fewer page tables to copy, too.
 * Guarantees: what is in memory is the same, byte for byte, before and after each of both functions; a page is given
 * back only when it was compared while nothing else could write to it: no other thread, no signal handler. A step that
 * fails leaves things as they were, and what is not moved is only not given back.
 * Assumes: moving: one thread, no Python code running. The stack, and mappings that are locked, not inherited or wiped on
 * a fork, stay. Nobody reads from outside into pages that the zygote had before the fork (as a device would).
 * A crash leaves nothing: the memfd has no name, and ends with its last process. */
#include "hot.h"

#include <ctype.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST_REGIONS 512
#define LOOK_PAGES 512 /* whose entries of the page map are read at once */
#define PAGE_PRESENT (1ull << 63)
#define PAGE_SWAPPED (1ull << 62)
#define PAGE_FILE (1ull << 61) /* or shared: no copy of this process' own */

struct region { uintptr_t begin, end; uint64_t offset; bool anonymous; };
/* Of this process and, by fork, of its children; written before anything is copied. */
static struct {
  struct region regions[MOST_REGIONS];
  size_t count;         /* of regions that are moved */
  uint64_t bytes;       /* of the file */
  const uint8_t *view;  /* of the file; NULL: not moved, or given back */
  bool tried;
} moved;

static int open_page_map(void) { return open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC); }

/* The entries of up to LOOK_PAGES pages from `page` on; how many were read. */
static size_t read_page_map(int map, uintptr_t page, uintptr_t end, uint64_t entries[LOOK_PAGES]) {
  size_t pages = (end - page) / AF_PAGE;
  if (pages > LOOK_PAGES) pages = LOOK_PAGES;
  ssize_t got = pread(map, entries, pages * sizeof *entries, (off_t)(page / AF_PAGE * sizeof *entries));
  return got < 0 ? 0 : (size_t)got / sizeof *entries;
}

/* -- which memory */

/* "rd wr mr mw me ac": nothing that a mapping of a file could not be as well. */
static bool is_plain(const char *flags) {
  static const char known[] = " rd wr mr mw me ac sd dd hg nh ";
  char flag[5];
  for (; *flags && *flags != '\n'; flags += 3) {
    if (snprintf(flag, sizeof flag, " %.2s ", flags) != 4 || !strstr(known, flag)) return false;
  }
  return true;
}

/* "begin-end perms offset device inode path": true for private memory that can be written. */
static bool parse_mapping(const char *line, struct region *region) {
  unsigned long begin, end, inode;
  char access[5];
  if (sscanf(line, "%lx-%lx %4s %*s %*s %lu", &begin, &end, access, &inode) != 4) return false;
  *region = (struct region){begin, end, 0, inode == 0};
  return strcmp(access, "rw-p") == 0 && !strstr(line, "[stack");
}

/* Fills in which memory is to move; how much. 0: it cannot be told. */
static uint64_t find_regions(size_t *count) {
  FILE *maps = fopen("/proc/self/smaps", "re");
  struct region region = {0};
  bool fits = false;
  char line[512];
  uint64_t bytes = 0;
  *count = 0;
  if (!maps) return 0;
  while (*count < MOST_REGIONS && fgets(line, sizeof line, maps)) {
    if (isdigit((unsigned char)line[0]) || (line[0] >= 'a' && line[0] <= 'f')) {
      fits = parse_mapping(line, &region);
    } else if (fits && strncmp(line, "VmFlags: ", 9) == 0 && is_plain(line + 9)) {
      region.offset = bytes;
      bytes += region.end - region.begin;
      moved.regions[(*count)++] = region;
    }
  }
  fclose(maps);
  return bytes;
}

/* -- moving */

/* The pages that are there; what is not reads as zeros, and so does the file. */
static bool copy_anonymous(const struct region *region, int file, int map) {
  uint64_t entries[LOOK_PAGES];
  for (uintptr_t page = region->begin; page < region->end;) {
    size_t count = read_page_map(map, page, region->end, entries);
    if (count == 0) return false;
    for (size_t i = 0; i < count; i++, page += AF_PAGE)
      if ((entries[i] & (PAGE_PRESENT | PAGE_SWAPPED)) &&
          pwrite(file, (const void *)page, AF_PAGE, (off_t)(region->offset + page - region->begin)) != AF_PAGE)
        return false;
  }
  return true;
}

static bool copy_region(const struct region *region, int file, int map) {
  if (region->anonymous) return copy_anonymous(region, file, map);
  size_t bytes = region->end - region->begin;
  return pwrite(file, (const void *)region->begin, bytes, (off_t)region->offset) == (ssize_t)bytes;
}

/* From the copy to the mapping nothing may be written to the region, `moved` included: all in between is on the stack. */
static bool move_region(const struct region *region, int file, int map) {
  size_t bytes = region->end - region->begin;
  if (!copy_region(region, file, map)) return false;
  return mmap((void *)region->begin, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file,
              (off_t)region->offset) != MAP_FAILED;
}

/* A file of that size, mapped so that it can be compared with later; -1. */
static int open_file(uint64_t bytes) {
  int file = af_memfd_create("actorflow zygote");
  if (file < 0) return -1;
  void *view = ftruncate(file, (off_t)bytes) < 0 ? MAP_FAILED : mmap(NULL, bytes, PROT_READ, MAP_SHARED, file, 0);
  if (view == MAP_FAILED) {
    close(file);
    return -1;
  }
  moved.view = view;
  moved.bytes = bytes;
  return file;
}

void hot_move_memory(void) {
  size_t count, done = 0;
  if (moved.tried) return;
  moved.tried = true;
  uint64_t bytes = find_regions(&count);
  int file = bytes > 0 ? open_file(bytes) : -1, map = open_page_map();
  if (file >= 0 && map >= 0)
    while (done < count && move_region(&moved.regions[done], file, map)) done++;
  moved.count = done;
  if (file >= 0) close(file);
  if (map >= 0) close(map);
}

/* -- giving back */

static bool is_alone(void) {
  struct stat tasks;
  return stat("/proc/self/task", &tasks) == 0 && tasks.st_nlink == 3;
}

/* Gives back those of the pages from `page` on that are copies and equal to the file; how many. */
static size_t give_back_pages(uintptr_t page, const uint64_t *entries, size_t count, const uint8_t *original) {
  size_t given = 0;
  for (size_t i = 0; i < count; i++, page += AF_PAGE, original += AF_PAGE)
    if ((entries[i] & PAGE_PRESENT) && !(entries[i] & PAGE_FILE) && memcmp((const void *)page, original, AF_PAGE) == 0)
      given += madvise((void *)page, AF_PAGE, MADV_DONTNEED) == 0;
  return given;
}

static size_t give_back_region(const struct region *region, int map, const uint8_t *file) {
  uint64_t entries[LOOK_PAGES];
  size_t given = 0, count;
  for (uintptr_t page = region->begin; page < region->end; page += count * AF_PAGE) {
    count = read_page_map(map, page, region->end, entries);
    if (count == 0) break;
    given += give_back_pages(page, entries, count, file + region->offset + (page - region->begin));
  }
  return given;
}

size_t hot_give_back(void) {
  sigset_t all, before;
  size_t given = 0;
  if (!moved.view || !is_alone()) return 0;
  int map = open_page_map();
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, &before);
  if (map >= 0 && is_alone()) /* a handler may have made a thread */
    for (size_t i = 0; i < moved.count; i++) given += give_back_region(&moved.regions[i], map, moved.view);
  sigprocmask(SIG_SETMASK, &before, NULL);
  if (map >= 0) close(map);
  munmap((void *)(uintptr_t)moved.view, moved.bytes);
  moved.view = NULL;
  return given;
}

/* -- for tests */

static PyObject *move_memory(PyObject *module, PyObject *unused) {
  (void)module;
  (void)unused;
  hot_move_memory();
  return PyLong_FromSize_t(moved.count);
}

static PyObject *give_back(PyObject *module, PyObject *unused) {
  (void)module;
  (void)unused;
  return PyLong_FromSize_t(hot_give_back());
}

static PyMethodDef functions[] = {{"move_memory", move_memory, METH_NOARGS, NULL},
                                  {"give_back", give_back, METH_NOARGS, NULL},
                                  {NULL, NULL, 0, NULL}};

int hot_add_moved(PyObject *module) { return PyModule_AddFunctions(module, functions); }
