/* slab's tests once more, as a program built with ThreadSanitizer. */
#include "slab_test.c"
