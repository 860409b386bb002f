/* head: a row per rule. Every row is scanned whole, at every two-way cut and byte by byte, always from a copy of
 * exactly the bytes that have come, so that ASan sees any look beyond them; the answer must be the same each time. */
#include "head_rows.h"

static void check_rows(const struct row *rows, size_t count)
{
    char parts[512], longer[1024];
    for (size_t i = 0; i < count; i++) {
        const struct row *row = &rows[i];
        enum fpred_status status = parse(row->bytes, row->len, parts, sizeof parts);
        if (status != row->status || strcmp(parts, row->parts) != 0) {
            fprintf(stderr, "%s: status %d, wanted %d\n  got    %s\n  wanted %s\n", row->rule, status, row->status,
                    parts, row->parts);
            CHECK(!"as the row has it");
        }
        check_cuts(row->rule, row->bytes, row->len, 1);
        /* A body behind the head changes nothing. */
        memcpy(longer, row->bytes, row->len);
        memcpy(longer + row->len, "\0GET", 4);
        if (row->status != FPRED_MORE)
            CHECK_EQ(parse(longer, row->len + 4, parts, sizeof parts), row->status);
        CHECK(row->status == FPRED_MORE || strcmp(parts, row->parts) == 0);
        check_cuts(row->rule, longer, row->len + 4, 1);
    }
}

#define CHECK_ROWS(rows) check_rows(rows, sizeof(rows) / sizeof *(rows))

TEST(request_lines_are_three_parts)
{
    static const struct row rows[] = {
        OK("9112 3: the plain case", LINE("GET / HTTP/1.1"), "1.1 GET raw=/ path=/ host=h"),
        OK("9110 9.1: any token is a method", LINE("m!#$%&'*+-.^_`|~9 / HTTP/1.1"),
           "1.1 m!#$%&'*+-.^_`|~9 raw=/ path=/ host=h"),
        OK("9112 2.2: one empty line before it", "\r\n" LINE("GET / HTTP/1.1"), "1.1 GET raw=/ path=/ host=h"),
        NO("9112 2.2: two empty lines", "\r\n\r\n" LINE("GET / HTTP/1.1"), BAD_REQUEST_LINE),
        NO("9112 2.2: an empty line ending in LF", "\n" LINE("GET / HTTP/1.1"), BAD_LINE_ENDING),
        NO("9112 2.2: CR without LF before it", "\rG", BAD_LINE_ENDING),
        NO("9112 3: one word", LINE("GET"), BAD_REQUEST_LINE),
        NO("9112 3: HTTP/0.9", LINE("GET /"), BAD_REQUEST_LINE),
        NO("9112 3: space and nothing", LINE("GET / "), BAD_REQUEST_LINE),
        NO("9112 3: two spaces before the version", LINE("GET /  HTTP/1.1"), BAD_REQUEST_LINE),
        NO("9112 3: two spaces before the target", LINE("GET  / HTTP/1.1"), BAD_REQUEST_LINE),
        NO("9112 3: a space in the target", LINE("GET /a b HTTP/1.1"), BAD_REQUEST_LINE),
        NO("9112 3: a space behind the version", LINE("GET / HTTP/1.1 "), BAD_REQUEST_LINE),
        NO("9112 3: a tab between", LINE("GET\t/ HTTP/1.1"), BAD_CONTROL_BYTE),
        NO("9112 3: no method", LINE(" / HTTP/1.1"), BAD_METHOD),
        NO("9110 9.1: a method that is no token", LINE("GE(T / HTTP/1.1"), BAD_METHOD),
        NO("9110 9.1: a method with a high byte", LINE("G\xc3\x89T / HTTP/1.1"), BAD_METHOD),
        NO("9112 2.2: NUL in the method", LINE("G\0T / HTTP/1.1"), BAD_CONTROL_BYTE),
        NO("a TLS hello on a plain port", "\x16\x03\x01", BAD_CONTROL_BYTE),
        NO("9112 2.3: 2.0", LINE("GET / HTTP/2.0"), BAD_VERSION),
        NO("9113 3.4: the HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", BAD_VERSION),
        NO("9112 2.3: 1.2", LINE("GET / HTTP/1.2"), BAD_VERSION),
        NO("9112 2.3: 0.9", LINE("GET / HTTP/0.9"), BAD_VERSION),
        NO("9112 2.3: case counts", LINE("GET / http/1.1"), BAD_VERSION),
        NO("9112 2.3: one digit", LINE("GET / HTTP/1.10"), BAD_VERSION),
        NO("9112 2.3: no digit", LINE("GET / HTTP/1."), BAD_VERSION),
        NO("9112 2.3: no minor", LINE("GET / HTTP/1"), BAD_VERSION),
        NO("9112 2.3: another protocol", LINE("GET / ICY/1.1"), BAD_REQUEST_LINE),
    };
    CHECK_ROWS(rows);
}

TEST(targets_are_judged_by_rfc_3986)
{
    static const struct row rows[] = {
        OK("9112 3.2.1: path and query", LINE("GET /a/b?c=d?/ HTTP/1.1"),
           "1.1 GET raw=/a/b path=/a/b query=c=d?/ host=h"),
        OK("9112 3.2.1: an empty query", LINE("GET /a? HTTP/1.1"), "1.1 GET raw=/a path=/a query= host=h"),
        OK("the URL Standard leaves these as they are", LINE("GET /a[b]|^?c[]={d|e}^`\\&f=100%&%zz HTTP/1.1"),
           "1.1 GET raw=/a[b]|^ path=/a[b]|^ query=c[]={d|e}^`\\&f=100%&%zz host=h"),
        OK("3986 2.1: escapes are decoded once", LINE("GET /%41%2525%2f%C3%a9 HTTP/1.1"),
           "1.1 GET raw=/%41%2525%2f%C3%a9 path=/A%25/\xc3\xa9 host=h"),
        OK("3986 3.3: all that a path may hold", LINE("GET /-._~!$&'()*+,;=:@ HTTP/1.1"),
           "1.1 GET raw=/-._~!$&'()*+,;=:@ path=/-._~!$&'()*+,;=:@ host=h"),
        OK("3986 3.3: empty segments", LINE("GET //a// HTTP/1.1"), "1.1 GET raw=//a// path=//a// host=h"),
        OK("3986 3.3: dots that are no dot segments", LINE("GET /.a/..b/.../c./d.. HTTP/1.1"),
           "1.1 GET raw=/.a/..b/.../c./d.. path=/.a/..b/.../c./d.. host=h"),
        OK("3986 3.4: dots in the query are nothing", LINE("GET /?/../%2e HTTP/1.1"),
           "1.1 GET raw=/ path=/ query=/../%2e host=h"),
        NO("9112 3.2: an empty target", LINE("GET  HTTP/1.1"), BAD_TARGET),
        NO("9112 3.2: neither form", LINE("GET a HTTP/1.1"), BAD_TARGET),
        NO("3986 2.1: one hex digit", LINE("GET /%4 HTTP/1.1"), BAD_TARGET),
        NO("3986 2.1: no hex digit", LINE("GET /%G0 HTTP/1.1"), BAD_TARGET),
        NO("3986 2.1: nothing behind the percent", LINE("GET /% HTTP/1.1"), BAD_TARGET),
        NO("3986 7.3: %00 in the path", LINE("GET /a%00 HTTP/1.1"), BAD_TARGET),
        NO("3986 7.3: %00 in the query", LINE("GET /?a%00 HTTP/1.1"), BAD_TARGET),
        NO("9112 3.2: a fragment", LINE("GET /a#b HTTP/1.1"), BAD_TARGET),
        NO("9112 3.2: a fragment behind a query", LINE("GET /a?b#c HTTP/1.1"), BAD_TARGET),
        NO("3986 2: '<' in a path", LINE("GET /< HTTP/1.1"), BAD_TARGET),
        NO("3986 2: '\"' in a query", LINE("GET /?\" HTTP/1.1"), BAD_TARGET),
        NO("3986 2: a backslash", LINE("GET /a\\b HTTP/1.1"), BAD_TARGET),
        NO("3986 2: '`'", LINE("GET /a`b HTTP/1.1"), BAD_TARGET),
        NO("3986 2: '{'", LINE("GET /{a} HTTP/1.1"), BAD_TARGET),
        NO("3986 2: '<' is no byte of a query", LINE("GET /?a<b HTTP/1.1"), BAD_TARGET),
        NO("3986 2: bytes over 0x7f in a path", LINE("GET /\xc3\xa9 HTTP/1.1"), BAD_TARGET),
        NO("3986 2: bytes over 0x7f in a query", LINE("GET /?\xff HTTP/1.1"), BAD_TARGET),
        NO("9112 2.2: DEL in the target", LINE("GET /\x7f HTTP/1.1"), BAD_CONTROL_BYTE),
        NO("3986 5.2.4: a dot segment", LINE("GET /a/./b HTTP/1.1"), BAD_TARGET),
        NO("3986 5.2.4: a last dot segment", LINE("GET /a/. HTTP/1.1"), BAD_TARGET),
        NO("3986 5.2.4: two dots", LINE("GET /a/../b HTTP/1.1"), BAD_TARGET),
        NO("3986 5.2.4: two dots, last", LINE("GET /.. HTTP/1.1"), BAD_TARGET),
        NO("3986 5.2.4: an encoded dot", LINE("GET /%2e/a HTTP/1.1"), BAD_TARGET),
        NO("3986 5.2.4: two dots, half encoded", LINE("GET /.%2E HTTP/1.1"), BAD_TARGET),
        NO("3986 5.2.4: between encoded slashes", LINE("GET /a%2f..%2fb HTTP/1.1"), BAD_TARGET),
    };
    CHECK_ROWS(rows);
}

TEST(other_forms_of_target)
{
    static const struct row rows[] = {
        OK("9112 3.2.2: absolute-form, whose authority beats Host", LINE("GET http://a:8/p?q HTTP/1.1"),
           "1.1 GET raw=/p path=/p query=q host=a:8"),
        OK("3986 3.1: schemes have no case; https", LINE("GET hTTpS://a/p HTTP/1.1"), "1.1 GET raw=/p path=/p host=a"),
        OK("9110 4.2.3: no path is '/'", LINE("GET http://a HTTP/1.1"), "1.1 GET raw=/ path=/ host=a"),
        OK("9110 4.2.3: no path, https", LINE("GET https://a HTTP/1.1"), "1.1 GET raw=/ path=/ host=a"),
        OK("9110 4.2.3: no path but a query", LINE("GET http://a?q/r HTTP/1.1"),
           "1.1 GET raw=/ path=/ query=q/r host=a"),
        OK("9112 3.2.2: an IPv6 address", LINE("GET http://[::1]:80/ HTTP/1.1"), "1.1 GET raw=/ path=/ host=[::1]:80"),
        OK("9112 3.2.2: in HTTP/1.0 without Host", "GET http://a/ HTTP/1.0\r\n\r\n",
           "1.0 GET raw=/ path=/ host=a close"),
        NO("9112 3.2.2: Host is still required", "GET http://a/ HTTP/1.1\r\n\r\n", BAD_HOST),
        NO("9112 3.2.2: Host must still be valid", "GET http://a/ HTTP/1.1\r\nHost: b c\r\n\r\n", BAD_HOST),
        NO("9110 4.2.4: userinfo", LINE("GET http://u:p@a/ HTTP/1.1"), BAD_TARGET),
        NO("9110 4.2.1: an empty host", LINE("GET http:///p HTTP/1.1"), BAD_TARGET),
        NO("9110 4.2.1: only a port", LINE("GET http://:80/ HTTP/1.1"), BAD_TARGET),
        NO("9110 4.2.1: nothing at all", LINE("GET http:// HTTP/1.1"), BAD_TARGET),
        NO("9110 4.2.2: nothing at all, https", LINE("GET https:// HTTP/1.1"), BAD_TARGET),
        NO("9110 4.2.1: only a query", LINE("GET http://?q HTTP/1.1"), BAD_TARGET),
        NO("9112 3.2.2: another scheme", LINE("GET ftp://a/ HTTP/1.1"), BAD_TARGET),
        NO("9112 3.2.2: one slash", LINE("GET http:/a HTTP/1.1"), BAD_TARGET),
        NO("9112 3.2.2: a bad port", LINE("GET http://a:8x/ HTTP/1.1"), BAD_TARGET),
        NO("9112 3.2.2: a fragment behind the host", LINE("GET http://a#b HTTP/1.1"), BAD_TARGET),
        NO("3986 5.2.4: dot segments there too", LINE("GET http://a/.. HTTP/1.1"), BAD_TARGET),
        NO("9112 3.2.3: authority-form", LINE("CONNECT a:80 HTTP/1.1"), BAD_TARGET),
        NO("9112 3.2.3: CONNECT has no other", LINE("CONNECT / HTTP/1.1"), BAD_TARGET),
        NO("9112 3.2.3: authority-form elsewhere", LINE("GET a:80 HTTP/1.1"), BAD_TARGET),
        OK("9112 3.2.4: asterisk-form", LINE("OPTIONS * HTTP/1.1"), "1.1 OPTIONS raw=* path=* host=h"),
        OK("9112 3.2.4: OPTIONS of a path", LINE("OPTIONS /a HTTP/1.1"), "1.1 OPTIONS raw=/a path=/a host=h"),
        NO("9112 3.2.4: only for OPTIONS", LINE("GET * HTTP/1.1"), BAD_TARGET),
        NO("9110 9.1: methods have case", LINE("options * HTTP/1.1"), BAD_TARGET),
        NO("9112 3.2.4: more than an asterisk", LINE("OPTIONS *a HTTP/1.1"), BAD_TARGET),
    };
    CHECK_ROWS(rows);
}

TEST(lines_and_fields_are_strict)
{
    static const struct row rows[] = {
        OK("9112 5: space and tab around a value", WITH("Content-Type: \t a b\t \r\n"), GOOD " type=a b"),
        OK("9112 5: none around it", WITH("Content-Type:a\r\n"), GOOD " type=a"),
        OK("9110 5.5: an empty value", WITH("Content-Type:\r\n"), GOOD " type="),
        OK("9110 5.5: a value of blanks", WITH("Content-Type: \t \r\n"), GOOD " type="),
        OK("9110 5.5: tab and high bytes inside", WITH("Content-Type: a\tb\x80\xff\r\n"), GOOD " type=a\tb\x80\xff"),
        OK("9110 5.1: names have no case", WITH("cOnTeNt-TyPe: a\r\n"), GOOD " type=a"),
        OK("the first of its name", WITH("Content-Type: a\r\nContent-Type: b\r\nContent-Encoding: c\r\n"),
           GOOD " type=a encoding=c"),
        OK("9110 5.1: any token is a name", WITH("!#$%&'*+-.^_`|~9: x\r\n"), GOOD),
        NO("9112 5.1: space before the colon", WITH("A : b\r\n"), BAD_FIELD_NAME),
        NO("9112 5.1: tab before the colon", WITH("A\t: b\r\n"), BAD_FIELD_NAME),
        NO("9112 5: an empty name", WITH(": b\r\n"), BAD_FIELD_NAME),
        NO("9112 5: no colon", WITH("Abc\r\n"), BAD_FIELD_NAME),
        NO("9110 5.1: a name that is no token", WITH("A(b: c\r\n"), BAD_FIELD_NAME),
        NO("9110 5.1: a name that starts so", WITH("(Ab: c\r\n"), BAD_FIELD_NAME),
        NO("9110 5.1: a high byte in a name", WITH("Abcdefg\xc3\xa9: c\r\n"), BAD_FIELD_NAME),
        NO("9112 5.2: a folded line", WITH("A: b\r\n c\r\n"), FOLDED_FIELD),
        NO("9112 5.2: folded by a tab", WITH("A: b\r\n\tc\r\n"), FOLDED_FIELD),
        NO("9112 2.2: blank before the first field", "GET / HTTP/1.1\r\n Host: h\r\n\r\n", FOLDED_FIELD),
        NO("9112 5.2: a line of one blank", WITH("A: b\r\n \r\n"), FOLDED_FIELD),
        NO("9112 2.2: LF ends the request line", "GET / HTTP/1.1\nHost: h\r\n\r\n", BAD_LINE_ENDING),
        NO("9112 2.2: LF ends a field", WITH("A: b\n"), BAD_LINE_ENDING),
        NO("9112 2.2: LF in a name", WITH("A\n"), BAD_LINE_ENDING),
        NO("9112 2.2: LF ends the head", "GET / HTTP/1.1\r\nHost: h\r\n\n", BAD_LINE_ENDING),
        NO("9112 2.2: CR, then no LF, at the end", "GET / HTTP/1.1\r\nHost: h\r\n\rx", BAD_LINE_ENDING),
        NO("9112 2.2: bare CR in the request line", "GET /\ra HTTP/1.1\r\n\r\n", BAD_LINE_ENDING),
        NO("9112 2.2: bare CR in a value", WITH("A: b\rc\r\n"), BAD_LINE_ENDING),
        NO("9112 2.2: two CR", WITH("A: b\r\r\n"), BAD_LINE_ENDING),
        NO("9110 5.5: NUL in a value", WITH("A: b\0c\r\n"), BAD_CONTROL_BYTE),
        NO("9110 5.5: NUL in a name", WITH("A\0: c\r\n"), BAD_CONTROL_BYTE),
        NO("9110 5.5: a control byte in a long value", WITH("A: bbbbbbbbbbbbbbbb\x1f\r\n"), BAD_CONTROL_BYTE),
        NO("9110 5.5: DEL in a long value", WITH("A: bbbbbbbbbbbbbbbbb\x7f\r\n"), BAD_CONTROL_BYTE),
        NO("9110 5.5: a control byte at a line's start", WITH("\x01: b\r\n"), BAD_CONTROL_BYTE),
        {"no end yet", BYTES("GET / HTTP/1.1\r\nHost: h\r\n\r"), FPRED_MORE, ""},
        {"nothing yet", BYTES(""), FPRED_MORE, ""},
    };
    CHECK_ROWS(rows);
}

TEST(host_is_one_and_valid)
{
    static const struct row rows[] = {
        OK("9110 7.2: a name and a port", HOST(" a.b-c:8000"), "1.1 GET raw=/ path=/ host=a.b-c:8000"),
        OK("9110 7.2: an IPv4 address", HOST(" 127.0.0.1"), "1.1 GET raw=/ path=/ host=127.0.0.1"),
        OK("3986 3.2.2: an IPv6 address", HOST(" [fe80::1:ffff]:80"), "1.1 GET raw=/ path=/ host=[fe80::1:ffff]:80"),
        OK("3986 3.2.2: one with IPv4 in it", HOST("[::ffff:1.2.3.4]"), "1.1 GET raw=/ path=/ host=[::ffff:1.2.3.4]"),
        OK("3986 3.2.2: a reg-name's other bytes", HOST(" a_~!$&'()*+,;=%41"),
           "1.1 GET raw=/ path=/ host=a_~!$&'()*+,;=%41"),
        OK("3986 3.2.3: an empty port", HOST(" h:"), "1.1 GET raw=/ path=/ host=h:"),
        NO("9112 3.2: none", "GET / HTTP/1.1\r\n\r\n", BAD_HOST),
        NO("9112 3.2: two", WITH("Host: h\r\n"), BAD_HOST),
        NO("9112 3.2: two, one far away", WITH("A: b\r\nHOST: i\r\n"), BAD_HOST),
        NO("9110 4.2.1: empty", HOST(""), BAD_HOST),
        NO("9110 4.2.1: blank", HOST("  "), BAD_HOST),
        NO("9110 4.2.1: only a port", HOST(" :80"), BAD_HOST),
        NO("9112 3.2: a blank in it", HOST(" a b"), BAD_HOST),
        NO("9112 3.2: two in one", HOST(" a, b"), BAD_HOST),
        NO("9112 3.2: a path", HOST(" a/b"), BAD_HOST),
        NO("9112 3.2: userinfo", HOST(" u@a"), BAD_HOST),
        NO("9112 3.2: a port of letters", HOST(" a:b"), BAD_HOST),
        NO("9112 3.2: two ports", HOST(" a:1:2"), BAD_HOST),
        NO("9112 3.2: a high byte", HOST(" \xc3\xa9"), BAD_HOST),
        NO("3986 2.1: a bad escape", HOST(" a%4"), BAD_HOST),
        NO("3986 2.1: %00", HOST(" a%00"), BAD_HOST),
        NO("3986 3.2.2: IPv6 without brackets", HOST(" ::1"), BAD_HOST),
        NO("3986 3.2.2: no closing bracket", HOST(" [::1"), BAD_HOST),
        NO("3986 3.2.2: empty brackets", HOST(" []"), BAD_HOST),
        NO("3986 3.2.2: a name in brackets", HOST(" [h]"), BAD_HOST),
        NO("3986 3.2.2: too many groups", HOST(" [1:2:3:4:5:6:7:8:9]"), BAD_HOST),
        NO("3986 3.2.2: far too long", HOST(" [11111111111111111111111111111111111111111111111111111]"), BAD_HOST),
        NO("3986 3.2.2: bytes behind the bracket", HOST(" [::1]a"), BAD_HOST),
        OK("9112 3.2: none in HTTP/1.0", WITH0(""), "1.0 POST raw=/ path=/ close"),
        NO("9112 3.2: two in HTTP/1.0", WITH0("Host: h\r\nHost: h\r\n"), BAD_HOST),
        NO("9112 3.2: an invalid one in HTTP/1.0", WITH0("Host: a b\r\n"), BAD_HOST),
    };
    CHECK_ROWS(rows);
}

TEST(content_length_is_one_number)
{
    static const struct row rows[] = {
        OK("9112 6.2: digits", WITH("Content-Length: 5\r\n"), GOOD " length=5"),
        OK("9112 6.2: zero", WITH("Content-Length: 0\r\n"), GOOD " length=0"),
        OK("9110 8.6: zeros in front", WITH("Content-Length: 0000000000000000000000005\r\n"), GOOD " length=5"),
        OK("9110 8.6: the largest that fits", WITH("Content-Length: 18446744073709551615\r\n"),
           GOOD " length=18446744073709551615"),
        OK("9112 6.2: in HTTP/1.0", WITH0("Content-Length: 5\r\n"), "1.0 POST raw=/ path=/ length=5 close"),
        NO("9112 6.3: one more", WITH("Content-Length: 18446744073709551616\r\n"), BAD_CONTENT_LENGTH),
        NO("9112 6.3: a digit more", WITH("Content-Length: 100000000000000000000\r\n"), BAD_CONTENT_LENGTH),
        NO("9112 6.3: the same twice", WITH("Content-Length: 5\r\nContent-Length: 5\r\n"), BAD_CONTENT_LENGTH),
        NO("9112 6.3: two different", WITH("Content-Length: 5\r\nA: b\r\ncontent-length: 6\r\n"), BAD_CONTENT_LENGTH),
        NO("9112 6.3: a list of the same", WITH("Content-Length: 5, 5\r\n"), BAD_CONTENT_LENGTH),
        NO("9112 6.3: empty", WITH("Content-Length:\r\n"), BAD_CONTENT_LENGTH),
        NO("9112 6.3: a sign", WITH("Content-Length: +5\r\n"), BAD_CONTENT_LENGTH),
        NO("9112 6.3: a minus", WITH("Content-Length: -5\r\n"), BAD_CONTENT_LENGTH),
        NO("9112 6.3: hex", WITH("Content-Length: 0x5\r\n"), BAD_CONTENT_LENGTH),
        NO("9112 6.3: a blank inside", WITH("Content-Length: 5 5\r\n"), BAD_CONTENT_LENGTH),
        NO("9112 6.3: a fraction", WITH("Content-Length: 5.0\r\n"), BAD_CONTENT_LENGTH),
        NO("9112 6.3: a high byte", WITH("Content-Length: \xb2\r\n"), BAD_CONTENT_LENGTH),
    };
    CHECK_ROWS(rows);
}

TEST(transfer_encoding_is_chunked_alone)
{
    static const struct row rows[] = {
        OK("9112 7.1: chunked", WITH("Transfer-Encoding: chunked\r\n"), GOOD " chunked"),
        OK("9112 7: codings have no case", WITH("transfer-encoding:\t cHUNKED \r\n"), GOOD " chunked"),
        NO("9112 6.1: with Content-Length", WITH("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
           LENGTH_WITH_CODING),
        NO("9112 6.1: the other way round", WITH("Transfer-Encoding: x\r\nContent-Length: 5\r\n"), LENGTH_WITH_CODING),
        NO("rule order: a bad length first", WITH("Transfer-Encoding: x\r\nContent-Length: x\r\n"), BAD_CONTENT_LENGTH),
        NO("9112 6.1: in HTTP/1.0", WITH0("Transfer-Encoding: chunked\r\n"), BAD_TRANSFER_ENCODING),
        NO("9112 6.1: repeated", WITH("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
           BAD_TRANSFER_ENCODING),
        NO("9112 6.1: repeated with another", WITH("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"),
           BAD_TRANSFER_ENCODING),
        NO("9112 6.1: chunked twice", WITH("Transfer-Encoding: chunked, chunked\r\n"), BAD_TRANSFER_ENCODING),
        NO("9112 6.3: chunked not last", WITH("Transfer-Encoding: chunked, gzip\r\n"), BAD_TRANSFER_ENCODING),
        NO("9112 6.3: no chunked at all: MUST be 400", WITH("Transfer-Encoding: gzip\r\n"), BAD_TRANSFER_ENCODING),
        NO("9112 6.3: identity is gone", WITH("Transfer-Encoding: identity\r\n"), BAD_TRANSFER_ENCODING),
        NO("9112 6.3: chunked's look-alikes", WITH("Transfer-Encoding: xchunked\r\n"), BAD_TRANSFER_ENCODING),
        NO("9112 6.3: empty", WITH("Transfer-Encoding:\r\n"), BAD_TRANSFER_ENCODING),
        NO("9112 7: quoted", WITH("Transfer-Encoding: \"chunked\"\r\n"), BAD_TRANSFER_ENCODING),
        NO("9112 7.1: chunked has no parameters", WITH("Transfer-Encoding: chunked;a=b\r\n"), BAD_TRANSFER_ENCODING),
        NO("9112 7: two words", WITH("Transfer-Encoding: gzip chunked\r\n"), BAD_TRANSFER_ENCODING),
        NO("only 'chunked': an empty element in front", WITH("Transfer-Encoding: , chunked\r\n"),
           BAD_TRANSFER_ENCODING),
        NO("only 'chunked': one behind", WITH("Transfer-Encoding: chunked,\r\n"), BAD_TRANSFER_ENCODING),
        NO("9110 5.5: a control byte in it",
           WITH("Transfer-Encoding: \x0b"
                "chunked\r\n"),
           BAD_CONTROL_BYTE),
        NO("9112 6.1: a coding that we don't know", WITH("Transfer-Encoding: gzip, chunked\r\n"), UNKNOWN_CODING),
        NO("9112 7: one with parameters", WITH("Transfer-Encoding: a ;b=c,chunked\r\n"), UNKNOWN_CODING),
    };
    CHECK_ROWS(rows);
}

TEST(connection_and_expect)
{
    static const struct row rows[] = {
        OK("9112 9.3: 1.1 persists", WITH(""), GOOD),
        OK("9112 9.3: but for close", WITH("Connection: Close\r\n"), GOOD " close"),
        OK("9112 9.3: close in a list", WITH("Connection: , TE ,close\r\n"), GOOD " close"),
        OK("9112 9.3: close beats keep-alive", WITH("Connection: keep-alive, close\r\n"), GOOD " close"),
        OK("9110 5.3: fields combine", WITH("Connection: keep-alive\r\nConnection: close\r\n"), GOOD " close"),
        OK("9110 5.6.1: whole elements only", WITH("Connection: closed, xclose, close x\r\n"), GOOD),
        OK("9112 9.3: 1.0 doesn't persist", WITH0("Connection: x\r\n"), "1.0 POST raw=/ path=/ close"),
        OK("9112 9.3: unless asked to", WITH0("Connection: Keep-Alive\r\n"), "1.0 POST raw=/ path=/"),
        OK("9112 9.3: close beats it there too", WITH0("Connection: close\r\nConnection: keep-alive\r\n"),
           "1.0 POST raw=/ path=/ close"),
        OK("9110 10.1.1: with a length", WITH("Expect: 100-Continue\r\nContent-Length: 5\r\n"),
           GOOD " length=5 continue"),
        OK("9110 10.1.1: chunked", WITH("Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n"),
           GOOD " chunked continue"),
        OK("9110 10.1.1: no body, nothing to wait for", WITH("Expect: 100-continue\r\n"), GOOD),
        OK("9110 10.1.1: an empty body", WITH("Expect: 100-continue\r\nContent-Length: 0\r\n"), GOOD " length=0"),
        OK("9110 10.1.1: another", WITH("Expect: 200-ok\r\nContent-Length: 5\r\n"), GOOD " length=5 bad-expect"),
        OK("9110 10.1.1: another beside it", WITH("Expect: 100-continue, a=b\r\nContent-Length: 5\r\n"),
           GOOD " length=5 bad-expect"),
        OK("9110 5.3: another in a second field", WITH("Expect: 100-continue\r\nExpect: x\r\nContent-Length: 5\r\n"),
           GOOD " length=5 bad-expect"),
        OK("9110 10.1.1: ignored in HTTP/1.0", WITH0("Expect: 100-continue\r\nExpect: x\r\nContent-Length: 5\r\n"),
           "1.0 POST raw=/ path=/ length=5 close"),
    };
    CHECK_ROWS(rows);
}

/* A head of this many bytes and field lines (at least 5 bytes each), complete. */
static char *big_head(size_t fields, size_t len)
{
    static const char line[] = "GET / HTTP/1.0\r\n";
    char *head = malloc(len + 1);
    size_t at = sizeof line - 1;
    memcpy(head, line, at);
    for (size_t i = 1; i < fields; i++, at += 5)
        memcpy(head + at, "a:b\r\n", 5);
    memset(head + at, 'x', len - at);
    head[at + 1] = ':';
    memcpy(head + len - 4, "\r\n\r\n", 5);
    return head;
}

static void check_big(size_t fields, size_t len, enum fpred_status wanted)
{
    char *head = big_head(fields, len), parts[512];
    CHECK_EQ(parse(head, len, parts, sizeof parts), wanted);
    check_cuts("big", head, len, len > 4096 ? 997 : 1);
    for (size_t cut = len - 8; cut < len; cut++) {
        struct outcome whole = scan_in_steps(head, len, len, 1), got = scan_in_steps(head, len, cut, len);
        CHECK(same(&got, &whole));
    }
    free(head);
}

TEST(large_heads_are_refused) /* RFC 6585 5: 431 */
{
    check_big(1, FPRED__HEAD_MAX, FPRED_OK);
    check_big(1, FPRED__HEAD_MAX + 1, FPRED_HEAD_TOO_LARGE);
    check_big(1, FPRED__HEAD_MAX * 2, FPRED_HEAD_TOO_LARGE);
    check_big(FPRED__HEAD_FIELDS, 600, FPRED_OK);
    check_big(FPRED__HEAD_FIELDS + 1, 600, FPRED_HEAD_TOO_LARGE);
    check_big(FPRED__HEAD_FIELDS + 1, FPRED__HEAD_MAX, FPRED_HEAD_TOO_LARGE);
}

TEST(refusal_keeps_what_was_understood)
{
    static const char bytes[] = "POST /p HTTP/1.1\r\nHost: h\r\nContent-Type: t\r\nContent-Length: x\r\n\r\n";
    struct fpred__head_scan scan = {0};
    struct fpred__head head;
    char path[sizeof bytes];
    memset(&head, 0x55, sizeof head);
    CHECK_EQ(fpred__head_scan(&scan, bytes, sizeof bytes - 1), FPRED_OK);
    CHECK_EQ(fpred__head_parse(&scan, bytes, path, &head), FPRED_BAD_CONTENT_LENGTH);
    CHECK(head.method.len == 4 && head.target.len == 2 && head.minor_version == 1);
    CHECK(head.path.base == NULL && head.authority.base == NULL && head.content_type.base == NULL);
    CHECK(head.field_count == 0 && head.framing == FPRED__FRAMING_NONE && !head.keep_alive);
}

TEST(accepted_fields_keep_order_and_case)
{
    static const char bytes[] = "\r\nGET / HTTP/1.1\r\nhOST:\th \r\nb:  1\r\nA:\r\n\r\nrest";
    struct fpred__head_scan scan = {0};
    struct fpred__head head;
    char path[sizeof bytes];
    CHECK_EQ(fpred__head_scan(&scan, bytes, sizeof bytes - 1), FPRED_OK);
    CHECK_EQ(scan.start, 2);
    CHECK_EQ(fpred__head_parse(&scan, bytes, path, &head), FPRED_OK);
    CHECK_EQ(head.bytes, sizeof bytes - 1 - 4);
    CHECK_EQ(head.field_count, 3);
    CHECK(head.fields[0].name.len == 4 && memcmp(head.fields[0].name.base, "hOST", 4) == 0);
    CHECK(head.fields[0].value.len == 1 && head.fields[0].value.base[0] == 'h');
    CHECK(head.fields[1].value.len == 1 && head.fields[2].value.len == 0);
}

TEST(slices_and_lists_compare)
{
    struct fpred_slice none = {NULL, 0}, word = {"Close\0", 6}, list = {" a ,,cLose\t,b", 13};
    CHECK(fpred__slice_is(none, "") && !fpred__slice_is(none, "a"));
    CHECK(!fpred__slice_is(word, "close"));
    word.len = 5;
    CHECK(fpred__slice_is(word, "close") && !fpred__slice_is(word, "clos") && !fpred__slice_is(word, "closes"));
    CHECK(!fpred__slice_is((struct fpred_slice){"[", 1}, "{"));
    CHECK(fpred__list_has(list, "a") && fpred__list_has(list, "close") && fpred__list_has(list, "b"));
    CHECK(!fpred__list_has(list, "c") && !fpred__list_has(none, "a"));
}

/* xorshift: the same mutations on every machine */
static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

TEST(mutated_heads_answer_alike_however_cut)
{
    static const char seed[] = "\r\nPOST http://h:1/%41/b?c HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 17\r\n"
                               "Connection: close, TE\r\nExpect: 100-continue\r\n\r\nbody";
    static const char spice[] = "\r\n\t :,%.?/#*\0\x7f\xff"
                                "05aG";
    uint32_t random = 2463534242u;
    unsigned differ = 0, complete = 0, accepted = 0;
    for (int i = 0; i < 200000; i++) {
        char bytes[sizeof seed], parts[512];
        size_t len = sizeof seed - 1 - next_random(&random) % 8;
        memcpy(bytes, seed, sizeof seed);
        for (uint32_t n = next_random(&random) % 4; n > 0; n--)
            bytes[next_random(&random) % len] = spice[next_random(&random) % (sizeof spice - 1)];
        size_t cut = next_random(&random) % len;
        struct outcome whole = {.status = FPRED_MORE}, two = whole, bytewise = whole;
        whole.status = fpred__head_scan(&whole.scan, bytes, len);
        fpred__head_scan(&two.scan, bytes, cut);
        two.status = fpred__head_scan(&two.scan, bytes, len);
        for (size_t at = 1; at <= len; at++)
            bytewise.status = fpred__head_scan(&bytewise.scan, bytes, at);
        enum fpred_status parsed = parse(bytes, len, parts, sizeof parts);
        differ += !same(&whole, &two) || !same(&whole, &bytewise);
        differ += whole.status != FPRED_OK && parsed != whole.status;
        complete += whole.status == FPRED_OK;
        accepted += parsed == FPRED_OK;
    }
    CHECK_EQ(differ, 0);
    CHECK(complete > 50000 && accepted > 10000 && accepted < complete); /* else the mutations reach nothing */
}

TESTS(&check__request_lines_are_three_parts, &check__targets_are_judged_by_rfc_3986, &check__other_forms_of_target,
      &check__lines_and_fields_are_strict, &check__host_is_one_and_valid, &check__content_length_is_one_number,
      &check__transfer_encoding_is_chunked_alone, &check__connection_and_expect, &check__large_heads_are_refused,
      &check__refusal_keeps_what_was_understood, &check__accepted_fields_keep_order_and_case,
      &check__slices_and_lists_compare, &check__mutated_heads_answer_alike_however_cut)
