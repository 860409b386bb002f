# The C tests and the drivers of several threads under valgrind: no invalid access, no use of what was never set, nothing definitely lost.
#
#   make -C tests/c -f valgrind.mk        builds and runs them all; a line for each
#   make -C tests/c -f valgrind.mk NAME   one of them: build/c/valgrind/NAME.ok
#
# Not among them, and left to AddressSanitizer:
#   guard_test                      reads memory that was cut short; valgrind's SIGBUS doesn't go on where the kernel's does
#   memfd_test, server_faults_test  run out of descriptors, of which valgrind has its own count
#   slab_resident_test              counts resident pages, among which are valgrind's

.DEFAULT_GOAL := valgrind
include Makefile

valgrind_CC := gcc
valgrind_FLAGS :=
valgrind_LEFT_OUT := guard_test memfd_test server_faults_test slab_resident_test
valgrind_NAMES := $(filter-out $(valgrind_LEFT_OUT),$(patsubst $(ROOT)/tests/c/%.c,%,$(sort $(wildcard $(ROOT)/tests/c/*_test.c $(ROOT)/tests/c/*_tsan.c))))
valgrind_TESTS := $(valgrind_NAMES:%=$(OUT)/valgrind/%)
$(eval $(call build,valgrind))

LIMIT_S := 600
VALGRIND := valgrind --quiet --fair-sched=try --leak-check=full --show-leak-kinds=definite \
            --errors-for-leak-kinds=definite --error-exitcode=99
# The child of a fork frees nothing, by design.
$(OUT)/valgrind/fdset_test.ok: VALGRIND += --leak-check=no

.PHONY: valgrind $(valgrind_NAMES)
valgrind: $(valgrind_NAMES)
$(valgrind_NAMES): %: $(OUT)/valgrind/%.ok

# There is never a file of that name: each of them runs every time.
$(OUT)/valgrind/%.ok: $(OUT)/valgrind/%
	@timeout $(LIMIT_S) $(VALGRIND) $< > $@.log 2>&1 && echo "ok      $*" || { cat $@.log; echo "FAILED  $*"; exit 1; }
