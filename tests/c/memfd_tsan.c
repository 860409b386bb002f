/* The tests of lent memory once more, as a program built with ThreadSanitizer. */
#include "memfd_server_test.c"
