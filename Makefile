# demo · test · crash · mutants · fuzz · lint · asan · asan-api · tsan · valgrind · bench · clean.
# Every target makes what it needs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

PACKAGE := $(filter-out mqlog/_engine.c,$(wildcard csrc/* mqlog/*.* mqlog/*/*.py mqlog/data/*))
BUILD := pyproject.toml setup.py README.md LICENSE
WARNINGS := -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Werror

.PHONY: demo test crash crash-beside crash-rest mutants fuzz asan asan-api tsan valgrind lint \
    bench clean

# PYTHONSAFEPATH: the processes that it starts import the package, not the tree around them.
demo: $(VENV)/.installed-cli
	PYTHONSAFEPATH=1 $(BIN)/mqlog demo

# From inside tests/, so that no process that a test starts imports the tree instead of the package.
test: $(VENV)/.installed-test asan
	cd tests && ../$(BIN)/pytest

# The engine alone, with asserts, through cffi. Python is started with the sanitizers' runtime; what
# that says before it ends the process must not be captured.
asan: $(VENV)/.installed-test
	cd tests && MQLOG_SANITIZE=1 ASAN_OPTIONS=detect_leaks=0 \
	    LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	    ../$(BIN)/pytest --capture=sys engine

# Everything in tests/crash, also what takes minutes; each tier prints what it did. First those
# whose times are looked at, and those whose two threads must meet, which takes seven times as long
# beside others; then what one processor does, or waits for disks, beside the rest.
CRASH = cd tests && MQLOG_CRASH=full ../$(BIN)/pytest -m ""
TIMED := $(addprefix crash/test_,holders.py competing_workers.py at_once.py)
BESIDE := $(addprefix crash/test_,hostile_bytes.py power_cuts.py interrupted.py group_commit.py \
    faults.py)
crash: $(VENV)/.installed-test
	$(CRASH) $(TIMED)
	$(MAKE) --no-print-directory -j2 crash-beside crash-rest
crash-beside:
	$(CRASH) $(BESIDE)
crash-rest:
	$(CRASH) crash $(addprefix --ignore=,$(TIMED) $(BESIDE))

# The package's tests with an extension that the sanitizers watch, in a .venv of its own; but those
# whose processes may have little address space, of which the sanitizer takes terabytes.
asan-api: | $(VENV)
	$(MAKE) VENV=.venv-asan MQLOG_SANITIZE=1 .venv-asan/.installed-test
	cd tests && ASAN_OPTIONS=detect_leaks=0 \
	    LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	    ../.venv-asan/bin/pytest --capture=sys -k 'not bounded_memory' api

# Every kind of thread at once on one mapping, in memory: tests/tools/stress.c.
tsan:
	mkdir -p build/tools
	$(CC) -std=gnu11 -O1 -g -UNDEBUG -fsanitize=thread -Wno-tsan -include tests/tools/tsan.h \
	    -Icsrc csrc/*.c tests/tools/stress.c -pthread -o build/tools/tsan
	place=$$(mktemp -d -p /dev/shm) && trap "rm -rf $$place" EXIT && \
	    build/tools/tsan $$place/store $${ROUNDS:-20}

# Every operation once, with memcheck: no byte that nobody has set reaches a file.
valgrind:
	mkdir -p build/tools
	$(CC) -std=gnu11 -O1 -g -UNDEBUG -Icsrc $(filter-out csrc/mql_os_posix.c,$(wildcard csrc/*.c)) \
	    tests/tools/mql_os_memcheck.c tests/tools/every.c -pthread -o build/tools/every
	place=$$(mktemp -d -p /dev/shm) && trap "rm -rf $$place" EXIT && \
	    valgrind --quiet --error-exitcode=1 --track-origins=yes build/tools/every $$place/store

# Bugs are planted one by one, and each must be noticed: tests/mutants.
mutants: $(VENV)/.installed-test
	$(BIN)/python tests/mutants/run.py

# FUZZ_SECONDS=60 for each target, FUZZ_TARGETS="log share" for some. Needs clang, and installs it
# where it may: tests/fuzz/fuzz.py.
fuzz: $(VENV)/.installed-test
	$(BIN)/python tests/fuzz/fuzz.py

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@for file in csrc/*.c; do \
	    echo "cc $$file"; \
	    $(CC) -std=c11 -O2 $(WARNINGS) -c $$file -o /dev/null || exit 1; \
	done

# Not part of the tests: what it says depends on what else the machine does. bench/README.md.
bench: $(VENV)/.installed-test
	cd bench/micro && ../../$(BIN)/pytest --import-mode=prepend -m "" --benchmark-disable-gc .

clean:
	rm -rf build .venv .venv-asan *.egg-info mqlog/_engine.c
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis

# A real install, made anew when a source has changed. Compiled objects are kept under build/, the
# Python files beside them are not: a module that is gone from the tree must go from the package.
$(VENV)/.installed-%: $(PACKAGE) $(BUILD) | $(VENV)
	find build/*/lib* -name '*.py*' -delete 2>/dev/null || true
	$(BIN)/pip install --quiet '.[$*]'
	@touch $@

$(VENV):
	$(PYTHON) -m venv $@
