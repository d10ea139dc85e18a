/* The machine's own limits: a queue between two processes in shared memory, and memcpy.
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
