# Five words and a quick one: run, test, bench, bench-quick, proto, lock. Each sets up what it needs on a bare clone.
PY := .venv/bin/python

run: .venv/ready          ## made feed of 100 000 people -> embedded index -> checker; Ctrl-C stops it
	$(PY) -m checker demo

test: check               ## everything that must be true before a commit
	$(PY) -m pytest

check: .venv/ready        ## format, lint, types, import contracts (generated-code drift is a pytest test)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: .venv/ready        ## every figure of docs/performance.md, measured in one run beside its floor
	$(PY) -m bench

bench-quick: .venv/ready  ## the same on a small scale, below a minute: is anything off by a multiple?
	$(PY) -m bench --quick

proto: .venv/ready        ## regenerate proto/checker/v1/*_pb2*
	$(PY) -m proto.generate

UV_LOCK := .venv/bin/uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --no-annotate -q

lock: .venv/ready         ## refresh requirements.lock and docker/*.lock (uv locks, pip installs)
	$(PY) -m pip install -q uv
	$(UV_LOCK) pyproject.toml --extra dev -o requirements.lock
	$(UV_LOCK) pyproject.toml --extra checker --constraint requirements.lock -o docker/requirements.lock
	$(UV_LOCK) pyproject.toml --constraint requirements.lock -o docker/edge.lock
	$(UV_LOCK) pyproject.toml --extra loadtest --constraint requirements.lock -o docker/loadtest.lock
	printf 'hatchling\nsetuptools\n' | \
		$(UV_LOCK) - --python-version 3.11 --constraint requirements.lock -o docker/build.lock

# The lock is complete, so pip need not resolve: resolving, it may fetch a newer `coverage[toml]` than the pinned one.
.venv/ready: requirements.lock pyproject.toml
	python3 -m venv .venv
	.venv/bin/python -m pip install -q --no-deps --require-hashes -r requirements.lock
	.venv/bin/python -m pip install -q --no-deps --no-build-isolation -e .
	.venv/bin/python -m pip check
	touch $@

.PHONY: run test check bench bench-quick proto lock
