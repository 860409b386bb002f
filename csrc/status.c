/* status: the tables behind status.h. Pure functions, any thread. */
#include "status.h"

#include <assert.h>
#include <stddef.h>

struct description {
    const char *text;
    int http;
};

/* A text becomes {"error": "..."}: it says what was wrong and what was expected, starts in lower case, has no full stop
 * and needs no escaping in JSON. */
static const struct description descriptions[] = {
    [FPRED_OK] = {"nothing is wrong", 500},

    [FPRED_MORE] = {"more input is needed", 500},
    [FPRED_CLOSED] = {"it is closed", 500},
    [FPRED_TIMEOUT] = {"the wait ran out of time", 500},
    [FPRED_NOMEM] = {"memory could not be had", 500},
    [FPRED_INVALID] = {"an argument is out of range", 500},
    [FPRED_SYSTEM] = {"a system call failed", 500},

    [FPRED_BAD_REQUEST_LINE] = {"malformed request line, expected a method, a target and HTTP/1.1", 400},
    [FPRED_BAD_METHOD] = {"malformed method, expected a token", 400},
    [FPRED_BAD_TARGET] = {"malformed request target, expected a path such as /predict or a whole http URL", 400},
    [FPRED_BAD_VERSION] = {"unsupported protocol version, expected HTTP/1.1 or HTTP/1.0", 400},
    [FPRED_BAD_FIELD_NAME] = {"malformed header name, expected a token right before the colon", 400},
    [FPRED_BAD_FIELD_VALUE] = {"malformed header value, expected no control characters", 400},
    [FPRED_BAD_LINE_ENDING] = {"bare CR or LF, expected every line to end in CRLF", 400},
    [FPRED_BAD_CONTROL_BYTE] = {"control character in the request head, expected none", 400},
    [FPRED_FOLDED_FIELD] = {"folded header line, expected each header on one line", 400},
    [FPRED_BAD_HOST] = {"a request needs exactly one valid Host", 400},
    [FPRED_BAD_CONTENT_LENGTH] = {"bad Content-Length, expected one decimal number", 400},
    [FPRED_LENGTH_WITH_CODING] = {"both Content-Length and Transfer-Encoding, expected one of them", 400},
    [FPRED_BAD_TRANSFER_ENCODING] = {"bad Transfer-Encoding, expected chunked, once, in HTTP/1.1", 400},
    [FPRED_UNKNOWN_CODING] = {"unknown transfer coding, expected chunked", 501},
    [FPRED_BAD_CHUNK] = {"malformed chunk, expected a size in hex, CRLF, that many bytes, CRLF", 400},
    [FPRED_HEAD_TOO_LARGE] = {"the request head is too large, expected at most 64 KiB and 100 headers", 431},

    [FPRED_NOT_FOUND] = {"nothing is served at this path", 404},
    [FPRED_METHOD_NOT_ALLOWED] = {"this path does not take this method, see Allow", 405},
    [FPRED_HEAD_TIMEOUT] = {"the request head took too long to arrive", 408},
    [FPRED_BODY_TIMEOUT] = {"the body stopped arriving before it was complete", 408},
    [FPRED_BODY_TOO_SLOW] = {"the body arrives more slowly than the least data rate of this server", 408},
    [FPRED_BODY_TOO_LARGE] = {"the body is larger than this server or path takes", 413},
    [FPRED_UNSUPPORTED_TYPE] = {"unsupported Content-Type, expected application/octet-stream, application/x-npy or "
                                "application/json",
                                415},
    [FPRED_UNSUPPORTED_ENCODING] = {"unsupported Content-Encoding, expected none", 415},
    [FPRED_BODY_MISMATCH] = {"the length of the body does not fit the expected dtype and shape", 400},
    [FPRED_BAD_MEMORY] = {"the memory that the request names can not be used", 400},
    [FPRED_BAD_EXPECT] = {"unsupported Expect, expected 100-continue", 417},
    [FPRED_HANDLER_FAILED] = {"the handler failed", 500},
    [FPRED_MEMORY_LOST] = {"the memory of the client went away while the request was worked on", 500},
    [FPRED_QUEUE_FULL] = {"too many requests are waiting, try again later", 503},
    [FPRED_OVER_BUDGET] = {"too many bytes are in flight, try again later", 503},
    [FPRED_NOT_READY] = {"the server is still starting, try again later", 503},
    [FPRED_DRAINING] = {"the server is shutting down, try again elsewhere or later", 503},
    [FPRED_QUEUE_TIMEOUT] = {"the request waited too long for its turn", 504},
};
static_assert(sizeof descriptions / sizeof *descriptions == FPRED_STATUS_COUNT, "every status has a description");

static const struct description *describe(enum fpred_status status)
{
    assert((size_t)status < FPRED_STATUS_COUNT);
    return &descriptions[status];
}

const char *fpred_status_text(enum fpred_status status)
{
    return describe(status)->text;
}

int fpred_status_http(enum fpred_status status)
{
    return describe(status)->http;
}

/* IANA's HTTP Status Code Registry; 306 and 418 are registered as unused and have no phrase. */
static const char *const informational[] = {"Continue", "Switching Protocols", "Processing", "Early Hints"};

static const char *const successful[] = {
    "OK",
    "Created",
    "Accepted",
    "Non-Authoritative Information",
    "No Content",
    "Reset Content",
    "Partial Content",
    "Multi-Status",
    "Already Reported",
    [26] = "IM Used",
};

static const char *const redirection[] = {
    "Multiple Choices",         "Moved Permanently",  "Found", "See Other", "Not Modified", "Use Proxy",
    [7] = "Temporary Redirect", "Permanent Redirect",
};

static const char *const client_error[] = {
    "Bad Request",
    "Unauthorized",
    "Payment Required",
    "Forbidden",
    "Not Found",
    "Method Not Allowed",
    "Not Acceptable",
    "Proxy Authentication Required",
    "Request Timeout",
    "Conflict",
    "Gone",
    "Length Required",
    "Precondition Failed",
    "Content Too Large",
    "URI Too Long",
    "Unsupported Media Type",
    "Range Not Satisfiable",
    "Expectation Failed",
    [21] = "Misdirected Request",
    "Unprocessable Content",
    "Locked",
    "Failed Dependency",
    "Too Early",
    "Upgrade Required",
    [28] = "Precondition Required",
    "Too Many Requests",
    [31] = "Request Header Fields Too Large",
    [51] = "Unavailable For Legal Reasons",
};

static const char *const server_error[] = {
    "Internal Server Error",
    "Not Implemented",
    "Bad Gateway",
    "Service Unavailable",
    "Gateway Timeout",
    "HTTP Version Not Supported",
    "Variant Also Negotiates",
    "Insufficient Storage",
    "Loop Detected",
    [10] = "Not Extended",
    "Network Authentication Required",
};

#define CLASS(phrases)                            \
    {                                             \
        phrases, sizeof phrases / sizeof *phrases \
    }
static const struct {
    const char *const *phrases;
    size_t count;
} classes[] = {CLASS(informational), CLASS(successful), CLASS(redirection), CLASS(client_error), CLASS(server_error)};
#undef CLASS

const char *fpred_status_reason(int http_status)
{
    if (http_status < 100 || http_status > 599)
        return "Unknown";
    size_t class = (size_t)http_status / 100 - 1, place = (size_t)http_status % 100;
    if (place >= classes[class].count || classes[class].phrases[place] == NULL)
        return "Unknown";
    return classes[class].phrases[place];
}
