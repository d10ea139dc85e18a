/* point.c - ends or stops this process at a numbered point; only in builds for tests (AF_POINTS). */
#include "af.h"

#ifdef AF_POINTS
#include <signal.h>
#include <unistd.h>

void af_point(struct af_client *client, int number) {
  if (client->point != number || client->point_countdown-- > 0)
    return;
  client->point = -1; /* once: a stopped process that goes on passes the next time */
  kill(getpid(), client->point_signal);
}
#endif
