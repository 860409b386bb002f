/* lane's tests once more, as a program built with ThreadSanitizer. */
#include "lane_test.c"
