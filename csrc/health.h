/* health: answers that need no Python. Loop thread. */
#ifndef FPRED_HEALTH_H
#define FPRED_HEALTH_H

#include "http1.h"

/* Why /readyz says 503 now, or FPRED_OK. */
enum fpred_status fpred__health_ready(const struct fpred__http1 *http1);

#endif
