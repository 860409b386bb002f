/* mailbox's tests once more, as a program built with ThreadSanitizer. */
#include "mailbox_test.c"
