#include "status.h"

#include "check.h"

#include <ctype.h>
#include <string.h>

TEST(every_status_has_a_sentence_that_fits_a_json_error)
{
    for (int status = 0; status < FPRED_STATUS_COUNT; status++) {
        const char *text = fpred_status_text((enum fpred_status)status);
        CHECK(text != NULL);
        if (text == NULL)
            continue;
        size_t len = strlen(text);
        CHECK(len >= 10 && len <= 120);
        CHECK(islower((unsigned char)text[0]));
        CHECK(text[len - 1] != '.');
        for (size_t i = 0; i < len; i++)
            CHECK(text[i] >= ' ' && text[i] < 0x7f && text[i] != '"' && text[i] != '\\');
    }
}

TEST(no_two_statuses_share_a_sentence)
{
    for (int a = 0; a < FPRED_STATUS_COUNT; a++)
        for (int b = 0; b < a; b++)
            CHECK(strcmp(fpred_status_text((enum fpred_status)a), fpred_status_text((enum fpred_status)b)) != 0);
}

TEST(a_bad_host_is_told_what_was_expected)
{
    CHECK(strcmp(fpred_status_text(FPRED_BAD_HOST), "a request needs exactly one valid Host") == 0);
}

TEST(what_no_client_can_cause_is_500)
{
    for (int status = FPRED_OK; status <= FPRED_SYSTEM; status++)
        CHECK_EQ(fpred_status_http((enum fpred_status)status), 500);
}

TEST(bad_framing_is_400_but_for_an_unknown_coding_and_a_large_head)
{
    for (int status = FPRED_BAD_REQUEST_LINE; status <= FPRED_HEAD_TOO_LARGE; status++) {
        int wanted = status == FPRED_UNKNOWN_CODING ? 501 : status == FPRED_HEAD_TOO_LARGE ? 431 : 400;
        CHECK_EQ(fpred_status_http((enum fpred_status)status), wanted);
    }
}

TEST(answers_have_the_http_status_that_the_header_promises)
{
    static const struct {
        enum fpred_status status;
        int http;
    } answers[] = {
        {FPRED_NOT_FOUND, 404},        {FPRED_METHOD_NOT_ALLOWED, 405},
        {FPRED_HEAD_TIMEOUT, 408},     {FPRED_BODY_TIMEOUT, 408},
        {FPRED_BODY_TOO_SLOW, 408},    {FPRED_BODY_TOO_LARGE, 413},
        {FPRED_UNSUPPORTED_TYPE, 415}, {FPRED_UNSUPPORTED_ENCODING, 415},
        {FPRED_BODY_MISMATCH, 400},    {FPRED_BAD_EXPECT, 417},
        {FPRED_BAD_MEMORY, 400},       {FPRED_MEMORY_LOST, 500},
        {FPRED_HANDLER_FAILED, 500},   {FPRED_QUEUE_FULL, 503},
        {FPRED_OVER_BUDGET, 503},      {FPRED_NOT_READY, 503},
        {FPRED_DRAINING, 503},         {FPRED_QUEUE_TIMEOUT, 504},
    };
    CHECK_EQ(sizeof answers / sizeof *answers, FPRED_STATUS_COUNT - FPRED_NOT_FOUND);
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++)
        CHECK_EQ(fpred_status_http(answers[i].status), answers[i].http);
}

TEST(every_http_status_in_use_has_a_reason)
{
    for (int status = 0; status < FPRED_STATUS_COUNT; status++)
        CHECK(strcmp(fpred_status_reason(fpred_status_http((enum fpred_status)status)), "Unknown") != 0);
}

/* One of each run in the tables, with the places behind their gaps: a phrase that moved by one shows. */
TEST(reasons_stand_at_their_registered_numbers)
{
    static const struct {
        int http;
        const char *reason;
    } reasons[] = {
        {100, "Continue"},
        {103, "Early Hints"},
        {200, "OK"},
        {204, "No Content"},
        {208, "Already Reported"},
        {226, "IM Used"},
        {300, "Multiple Choices"},
        {305, "Use Proxy"},
        {307, "Temporary Redirect"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {421, "Misdirected Request"},
        {422, "Unprocessable Content"},
        {426, "Upgrade Required"},
        {428, "Precondition Required"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {451, "Unavailable For Legal Reasons"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {508, "Loop Detected"},
        {510, "Not Extended"},
        {511, "Network Authentication Required"},
    };
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        CHECK(strcmp(fpred_status_reason(reasons[i].http), reasons[i].reason) == 0);
}

TEST(a_number_without_a_registered_phrase_is_unknown)
{
    static const int numbers[] = {-1,  0,   99,  104, 199, 209, 225, 227, 306, 309, 399, 418,
                                  420, 427, 430, 432, 452, 499, 509, 512, 599, 600, 1000};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        CHECK(strcmp(fpred_status_reason(numbers[i]), "Unknown") == 0);
    int known = 0;
    for (int http = -10; http < 1100; http++)
        known += strcmp(fpred_status_reason(http), "Unknown") != 0;
    CHECK_EQ(known, 61);
}

TESTS(&check__every_status_has_a_sentence_that_fits_a_json_error, &check__no_two_statuses_share_a_sentence,
      &check__a_bad_host_is_told_what_was_expected, &check__what_no_client_can_cause_is_500,
      &check__bad_framing_is_400_but_for_an_unknown_coding_and_a_large_head,
      &check__answers_have_the_http_status_that_the_header_promises, &check__every_http_status_in_use_has_a_reason,
      &check__reasons_stand_at_their_registered_numbers, &check__a_number_without_a_registered_phrase_is_unknown)
