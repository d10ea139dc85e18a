/* The machine's own limits: a queue between two processes in shared memory, a word along several of them, and memcpy.
 *
 * A pair of rings, one for each direction, each with a single writer and a single reader. A slot is free or full;
 * its word says which, by the turn of the ring that it belongs to, so that each side reads only the slot that it
 * is about to use. Waiting is spinning with pause; only a wait of some 10 us lets another process run.
 * Nothing sleeps, nothing recovers from a death: this is what the hardware gives, not a product.
 */
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define SLOTS 2048u
#define SLOT_DATA_BYTES 240u
#define PAUSES_BEFORE_YIELD 500u

struct slot {
    _Alignas(64) _Atomic uint32_t turn; /* 2 * round: free; 2 * round + 1: full */
    uint32_t size;
    unsigned char data[SLOT_DATA_BYTES];
};

struct ring {
    struct slot slots[SLOTS];
};

struct limits_queue {
    struct ring rings[2]; /* 0: requests, 1: replies */
};

struct limits_end {
    struct limits_queue *queue;
    uint32_t sent, received; /* counts of this process */
    int sends_on;
};

static void pause_cpu(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* SYNC POINT slot-turn: the release stores in limits_send and limits_receive. */
static void wait_turn(struct slot *slot, uint32_t turn) {
    uint32_t pauses = 0;
    while (atomic_load_explicit(&slot->turn, memory_order_acquire) != turn) {
        pause_cpu();
        if (++pauses == PAUSES_BEFORE_YIELD) {
            pauses = 0;
            sched_yield();
        }
    }
}

struct limits_queue *limits_queue_create(void) {
    void *memory =
        mmap(NULL, sizeof(struct limits_queue), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

void limits_queue_destroy(struct limits_queue *queue) { munmap(queue, sizeof *queue); }

void limits_end_init(struct limits_end *end, struct limits_queue *queue, int is_server) {
    end->queue = queue;
    end->sent = end->received = 0;
    end->sends_on = is_server;
}

/* Returns 0, or -1 when the data do not fit a slot. */
int limits_send(struct limits_end *end, const void *data, uint32_t size) {
    if (size > SLOT_DATA_BYTES)
        return -1;
    struct slot *slot = &end->queue->rings[end->sends_on].slots[end->sent % SLOTS];
    uint32_t turn = 2 * (end->sent / SLOTS);
    wait_turn(slot, turn);
    memcpy(slot->data, data, size);
    slot->size = size;
    atomic_store_explicit(&slot->turn, turn + 1, memory_order_release); /* SYNC POINT slot-turn */
    end->sent++;
    return 0;
}

/* Returns the size; `data` has room for SLOT_DATA_BYTES. */
uint32_t limits_receive(struct limits_end *end, void *data) {
    struct slot *slot = &end->queue->rings[1 - end->sends_on].slots[end->received % SLOTS];
    uint32_t turn = 2 * (end->received / SLOTS);
    wait_turn(slot, turn + 1);
    uint32_t size = slot->size;
    memcpy(data, slot->data, size);
    atomic_store_explicit(&slot->turn, turn + 2, memory_order_release); /* SYNC POINT slot-turn */
    end->received++;
    return size;
}

/* Send every request back until an empty one comes. */
void limits_echo(struct limits_end *end) {
    unsigned char data[SLOT_DATA_BYTES];
    uint32_t size;
    while ((size = limits_receive(end, data)) != 0)
        limits_send(end, data, size);
}

/* Returns the mean seconds of a round trip. */
double limits_ping(struct limits_end *end, uint32_t round_trips) {
    unsigned char data[SLOT_DATA_BYTES] = {1};
    struct timespec begin, finish;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (uint32_t i = 0; i < round_trips; i++) {
        limits_send(end, data, 8);
        limits_receive(end, data);
    }
    clock_gettime(CLOCK_MONOTONIC, &finish);
    double elapsed_s = (double)(finish.tv_sec - begin.tv_sec) + 1e-9 * (double)(finish.tv_nsec - begin.tv_nsec);
    return elapsed_s / round_trips;
}

/* A ring of processes: each passes on what the one before it wrote, through a channel with one slot. With more of them
 * than CPUs, who waits has to let others run: hence bursts of pause with sched_yield between. */
#define PAUSES_IN_A_RING 20u

struct limits_link {
    _Alignas(64) _Atomic uint32_t written;
    uint32_t size;
    unsigned char data[SLOT_DATA_BYTES];
    _Alignas(64) _Atomic uint32_t read;
};

static void wait_count(_Atomic uint32_t *count, uint32_t wanted) {
    uint32_t pauses = 0;
    while (atomic_load_explicit(count, memory_order_acquire) != wanted) {
        pause_cpu();
        if (++pauses % PAUSES_IN_A_RING == 0)
            sched_yield();
    }
}

/* SYNC POINT link: each side's count is released by the one that raises it. */
static void link_write(struct limits_link *link, uint32_t number, const void *data, uint32_t size) {
    wait_count(&link->read, number);
    memcpy(link->data, data, size);
    link->size = size;
    atomic_store_explicit(&link->written, number + 1, memory_order_release);
}

static uint32_t link_read(struct limits_link *link, uint32_t number, void *data) {
    wait_count(&link->written, number + 1);
    uint32_t size = link->size;
    memcpy(data, link->data, size);
    atomic_store_explicit(&link->read, number + 1, memory_order_release);
    return size;
}

struct limits_link *limits_links_create(uint32_t count) {
    void *memory = mmap(NULL, count * sizeof(struct limits_link), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

void limits_links_destroy(struct limits_link *links, uint32_t count) { munmap(links, count * sizeof *links); }

/* Member `index` of the ring, from 1 on: passes on until something empty has passed. */
void limits_pass(struct limits_link *links, uint32_t index) {
    unsigned char data[SLOT_DATA_BYTES];
    uint32_t size = 1;
    for (uint32_t number = 0; size != 0; number++) {
        size = link_read(&links[index - 1], number, data);
        link_write(&links[index], number, data, size);
    }
}

/* Member 0 of a ring of `count`: sends `round_trips` times `size` bytes round, from number `begin` on; returns the mean
 * seconds of one. */
double limits_round(struct limits_link *links, uint32_t count, uint32_t begin, uint32_t round_trips, uint32_t size) {
    unsigned char data[SLOT_DATA_BYTES] = {1};
    struct timespec start, finish;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (uint32_t number = begin; number < begin + round_trips; number++) {
        link_write(&links[0], number, data, size);
        link_read(&links[count - 1], number, data);
    }
    clock_gettime(CLOCK_MONOTONIC, &finish);
    double elapsed_s = (double)(finish.tv_sec - start.tv_sec) + 1e-9 * (double)(finish.tv_nsec - start.tv_nsec);
    return elapsed_s / round_trips;
}

/* Returns `size` bytes of shared memory with every page touched, or NULL. */
void *limits_pages_create(size_t size) {
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    memset(memory, 1, size);
    return memory;
}

void limits_pages_destroy(void *memory, size_t size) { munmap(memory, size); }

void limits_copy(void *target, const void *source, size_t size) { memcpy(target, source, size); }
