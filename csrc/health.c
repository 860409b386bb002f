/* health: see health.h. Loop thread. */
#include "health.h"

enum fpred_status fpred__health_ready(const struct fpred__http1 *http1)
{
    if (http1->draining)
        return FPRED_DRAINING;
    if (!atomic_load_explicit(&http1->ready, memory_order_acquire))
        return FPRED_NOT_READY;
    if (fpred__lane_depth(http1->lane) >= http1->config->max_queued_requests)
        return FPRED_QUEUE_FULL;
    return FPRED_OK;
}
