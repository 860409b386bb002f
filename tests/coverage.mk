# Everything that script/coverage runs, built for gcov into build/coverage: C tests, fuzz targets, the extension.
#
#   make -f tests/coverage.mk PYTHON=...

PLACE := $(abspath $(dir $(lastword $(MAKEFILE_LIST))))
OUT := $(PLACE)/../build/coverage
PYTHON := python3

.DEFAULT_GOAL := all
include $(PLACE)/c/Makefile

# A process that ends by _exit has counted all the same: see flush.h below.
GCOV := --coverage -O0 -fprofile-update=atomic -include $(OUT)/flush.h

# ---- the C tests, by the rules of c/Makefile ----

gcov_CC := gcc
gcov_FLAGS := $(GCOV)
TEST_NAMES := $(basename $(notdir $(wildcard $(PLACE)/c/*_test.c $(PLACE)/c/*_tsan.c)))
gcov_TESTS := $(TEST_NAMES:%=$(OUT)/gcov/%)
$(eval $(call build,gcov))
$(gcov_OBJECTS) $(gcov_TESTS): $(OUT)/flush.h

# ---- the fuzz targets, without libFuzzer ----

conn_WORLD := $(foreach name,clock_gettime sem_wait malloc calloc realloc,-D$(name)=fuzz_$(name))
conn_SOURCES := $(filter-out %/accesslog.c %/server.c %/loop.c,$(SOURCES))
head_SOURCES := $(SOURCES)
chunked_SOURCES := $(SOURCES)
TARGETS := head chunked conn

define replay
$(OUT)/fuzz/$(1)/%.o: $(ROOT)/csrc/%.c $(OUT)/flush.h
	@mkdir -p $$(@D)
	gcc $$(CPPFLAGS) $$($(1)_WORLD) $$(CFLAGS) $(GCOV) -c -o $$@ $$<

$(OUT)/fuzz/$(1)_fuzz: $(PLACE)/fuzz/$(1)_fuzz.c $$(patsubst $(ROOT)/csrc/%.c,$(OUT)/fuzz/$(1)/%.o,$$($(1)_SOURCES))
	gcc $$(CPPFLAGS) -I$(PLACE)/fuzz $$($(1)_WORLD) $$(CFLAGS) $(GCOV) -o $$@ $$< $(PLACE)/fuzz/replay.c \
	    $$(filter %.o,$$^) $$(LDLIBS)
endef
$(foreach target,$(TARGETS),$(eval $(call replay,$(target))))

# ---- the extension, beside a copy of the package ----

EXTENSION := $(OUT)/python/fastpredict/_core.so
EXT_SOURCES := $(SOURCES) $(wildcard $(ROOT)/pyext/*.c)
EXT_OBJECTS := $(patsubst $(ROOT)/%.c,$(OUT)/extension/%.o,$(EXT_SOURCES))
EXT_FLAGS = -fPIC -I$(ROOT)/pyext -DNPY_NO_DEPRECATED_API=NPY_2_0_API_VERSION -DNPY_TARGET_VERSION=NPY_2_0_API_VERSION \
            $(shell $(PYTHON) -c 'import numpy, sysconfig; print("-I" + sysconfig.get_path("include"), "-I" + numpy.get_include())')

$(OUT)/extension/%.o: $(ROOT)/%.c $(OUT)/flush.h
	@mkdir -p $(@D)
	gcc $(CPPFLAGS) $(CFLAGS) $(GCOV) $(EXT_FLAGS) -c -o $@ $<

$(EXTENSION): $(EXT_OBJECTS)
	@mkdir -p $(@D)
	gcc --coverage -shared -o $@ $^ $(LDLIBS)

$(OUT)/flush.h:
	@mkdir -p $(@D)
	printf '%s\n' '#include <unistd.h>' 'void __gcov_dump(void);' \
	    '#define _exit(status) (__gcov_dump(), _exit(status))' > $@

.PHONY: all
all: $(gcov_TESTS) $(TARGETS:%=$(OUT)/fuzz/%_fuzz) $(EXTENSION)

-include $(shell find $(OUT) -name '*.d' 2>/dev/null)
