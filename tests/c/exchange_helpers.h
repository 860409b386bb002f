/* What the tests of exchange, lane and mailbox share: exchanges without a connection. */
#ifndef FPRED_TESTS_EXCHANGE_HELPERS_H
#define FPRED_TESTS_EXCHANGE_HELPERS_H

#include <stdlib.h>

#include "check.h"
#include "exchange.h"
#include "lane.h"
#include "mailbox.h"

static inline struct fpred__mailbox *mailbox_new(void)
{
    struct fpred__mailbox *mailbox = fpred__mailbox_new(fpred__slab_new((size_t)64 << 20));
    assert(mailbox != NULL);
    return mailbox;
}

/* A parsed head, with its bytes. */
struct parsed {
    char bytes[512], path[512];
    struct fpred__head head;
};

static inline void parse(struct parsed *parsed, const char *text)
{
    struct fpred__head_scan scan = {0};
    strcpy(parsed->bytes, text);
    CHECK_EQ(fpred__head_scan(&scan, parsed->bytes, strlen(text)), FPRED_OK);
    CHECK_EQ(fpred__head_parse(&scan, parsed->bytes, parsed->path, &parsed->head), FPRED_OK);
}

static inline struct fpred_exchange *exchange_new(struct fpred__mailbox *mailbox)
{
    struct parsed parsed;
    parse(&parsed, "POST /p HTTP/1.1\r\nHost: t\r\n\r\n");
    struct fpred_exchange *exchange = fpred__exchange_new(mailbox, &parsed.head, parsed.bytes, "127.0.0.1:1");
    assert(exchange != NULL);
    return exchange;
}

/* One that a thread has taken, as the server does it. */
static inline struct fpred_exchange *exchange_running(struct fpred__mailbox *mailbox)
{
    struct fpred_exchange *exchange = exchange_new(mailbox);
    fpred__exchange_step(exchange, FPRED__RECEIVING, FPRED__QUEUED);
    fpred__exchange_step(exchange, FPRED__QUEUED, FPRED__RUNNING);
    fpred__mailbox_took(mailbox);
    return exchange;
}

static inline size_t slots_out(struct fpred__mailbox *mailbox)
{
    struct fpred__slab_stats stats;
    fpred__slab_stats(fpred__mailbox_slab(mailbox), &stats);
    return stats.out_slots;
}

static inline void reply_with_owner(struct fpred_exchange *exchange, void *owner)
{
    struct fpred_slice part = {owner, 1};
    struct fpred_reply reply = {.status = 200, .parts = &part, .part_count = 1, .owner = owner};
    CHECK_EQ(fpred_exchange_reply(exchange, &reply), FPRED_OK);
}

#endif
