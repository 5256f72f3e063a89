# Every target sets up what it needs. A fresh machine needs Python 3.11 or newer, make and the package registries; for all
# tests also a JDK (17 or newer), Maven, Go (1.24), Node (20 or newer) with npm, Rust (1.88) with a C compiler, and Debian
# 12's apt-get and dpkg.
PYTHON ?= python3
# The generator has ready-made packages for Python 3.11 to 3.13: the first of these that fits makes its environment.
GEN_PYTHON ?= $(PYTHON) python3.13 python3.12 python3.11
# Seconds that demo and soak run.
FOR ?=
# On which database the demo runs: postgres, dynamodb, cosmos or spanner.
PROVIDER ?= postgres
# More options for pytest, such as PYTEST_ARGS="-k token -x", and how many processes share the tests.
PYTEST_ARGS ?=
WORKERS ?= auto

# What runs on the oldest PostgreSQL that is supported too: all that its version could break.
TESTS_ON_15 := tests/postgres $(addprefix tests/conformance/test_,reading.py partitions.py expiry.py) \
  tests/load/test_concurrency_oracle.py
# Of these, what shows our own side of the connection. What it asks of the server, the others ask too.
NOT_ON_15 := $(addprefix --ignore=tests/postgres/test_,connections.py monitoring.py outage.py pooler.py provider_faults.py \
  provider_oracle.py provider_pages.py provider_starts.py provider_waiting.py retention_loop.py)
PARTS := set-up lint $(if $(PYTEST_ARGS),,test-postgres-15) test-newest

# What generates code, a stamp each.
GENERATORS := .venv-gen/.stamp .clients/.stamp-go clients/typescript/node_modules/.stamp .clients/.stamp-rust .clients/.stamp-java

# Where no compiled code is kept, each process of the tests compiles every module anew.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
SOURCES := server $(addprefix clients/python/,src conformance examples) tests bench scripts
# Where the tests find our commands and, if there is one, grpcurl.
TEST_PATH := $(CURDIR)/$(BIN):$(PATH):$(shell go env GOPATH 2>/dev/null)/bin
PYTEST = PATH="$(TEST_PATH)" $(BIN)/pytest --numprocesses=$(WORKERS) --dist=loadgroup $(PYTEST_ARGS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo serve test test-fast test-newest test-postgres-15 test-cosmos-java set-up lint fmt gen gen-check schema soak verify-dynamodb verify-cosmos verify-spanner bench-core wheels baseline constraints lock audit sbom test-lowest helm-check clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo: .venv/.stamp ## Show changes of real rows arriving; FOR=20 ends by itself after 20 s, PROVIDER=dynamodb|cosmos|spanner shows others
ifeq ($(PROVIDER),postgres)
	@$(BIN)/changefeed demo $(if $(FOR),--for $(FOR))
else
	@$(MAKE) --no-print-directory .venv/.stamp-dev $(if $(filter dynamodb,$(PROVIDER)),.dynamodb-local/.stamp)
	@$(BIN)/python -m tests.demo $(PROVIDER) $(if $(FOR),--for $(FOR))
endif

serve: .venv/.stamp ## Run the gateway with changefeed.yaml, or on the embedded PostgreSQL without it
	@$(BIN)/changefeed serve

test: ## Lint and run all tests, those of PostgreSQL on 15 too; tells how long each part took
	@status=0; told=; for part in $(PARTS); do \
	   began=$$(date +%s); $(MAKE) --no-print-directory --jobs=3 $$part || status=$$?; \
	   told="$$told, $$part $$(($$(date +%s) - began)) s"; test $$status = 0 || break; \
	 done; echo "took: $${told#, }"; exit $$status

# A part each, so that what is set up is not counted for what is tested.
set-up: .venv/.stamp-dev $(GENERATORS) .clients/.stamp-java-client .dynamodb-local/.stamp .cosmos-node/.stamp \
  .pgbouncer/.stamp .faketime/.stamp $(if $(PYTEST_ARGS),,.postgresql-15/.stamp)

# Much of it waits for the network. But Maven's own repository is for one at a time.
ifeq ($(MAKECMDGOALS),set-up)
.clients/.stamp-java-client: | .clients/.stamp-java
.dynamodb-local/.stamp: | .clients/.stamp-java-client
endif

test-newest: .venv/.stamp-dev .dynamodb-local/.stamp .cosmos-node/.stamp .pgbouncer/.stamp .faketime/.stamp
	@echo "pytest"
	@$(PYTEST)

test-fast: .venv/.stamp-dev ## Run the tests without a database: unit, property and API tests, conformance on the memory backend
	@$(PYTEST) tests/unit tests/properties tests/api tests/conformance -k "not conformance or memory"

test-postgres-15: .venv/.stamp-dev .postgresql-15/.stamp .pgbouncer/.stamp .faketime/.stamp ## Run what PostgreSQL's version could break on version 15
	@echo "pytest, PostgreSQL 15"
	@POSTGRES_BINARIES=$(CURDIR)/.postgresql-15/usr/lib/postgresql/15/bin \
	  LD_LIBRARY_PATH=$(subst $() ,:,$(wildcard $(CURDIR)/.postgresql-15/usr/lib/*-linux-gnu)) \
	  $(PYTEST) $(TESTS_ON_15) $(NOT_ON_15) -k "not conformance or postgres-watched or postgres-documents"

lint: .venv/.stamp-dev gen-check ## Check style, types, import rules, the contract, generated code, the Dockerfile and wheels
	@echo "ruff check";   $(BIN)/ruff check --quiet $(SOURCES)
	@echo "ruff format";  $(BIN)/ruff format --quiet --check $(SOURCES)
	@echo "mypy";         $(BIN)/mypy --no-error-summary
	@echo "lint-imports"; said=$$($(BIN)/lint-imports --no-logo) || { echo "$$said"; exit 1; }
	@echo "buf lint";     $(BIN)/buf lint
	@echo "buf format";   $(BIN)/buf format --diff --exit-code proto
	@echo "buf breaking"; $(BIN)/buf breaking proto --against proto/baseline.binpb
	@echo "hadolint";     $(BIN)/hadolint Dockerfile
	@echo "wheels";       $(BIN)/python scripts/check_wheels.py

gen-check: $(GENERATORS)
	@echo "generated code"
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && scripts/gen "$$fresh" && for language in $$(ls "$$fresh"); do \
	   diff -rq --exclude=__pycache__ "$$fresh/$$language/gen" clients/$$language/gen || \
	     { echo "clients/$$language/gen is not what proto/ gives: run make gen and commit the result"; exit 1; }; \
	 done

fmt: .venv/.stamp-dev ## Format Python and proto files and repair what ruff can
	@$(BIN)/ruff check --quiet --fix $(SOURCES) || true
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/buf format --write proto

gen: $(GENERATORS) ## Generate the code of every client from proto/
	@scripts/gen

schema: .venv/.stamp-dev ## Write migrations/schema.sql and capture.golden.sql anew from the migrations
	@UPDATE_SCHEMA=1 $(BIN)/pytest -q tests/postgres/test_schema.py tests/postgres/test_golden_capture.py

soak: .venv/.stamp-dev .dynamodb-local/.stamp .cosmos-node/.stamp .faketime/.stamp ## Try new random histories and storms, FOR=600 seconds a test unless given
	@PATH="$(TEST_PATH)" SOAK_SECONDS=$(or $(FOR),600) $(BIN)/pytest -m "soak or hypothesis" --timeout=0 $(PYTEST_ARGS)

test-cosmos-java: .venv/.stamp-dev .cosmos-java/.stamp ## Ask the server in the tests of Cosmos DB with the Java SDK too
	@PATH="$(TEST_PATH)" $(BIN)/pytest tests/cosmos/java/with_java_sdk.py $(PYTEST_ARGS)

verify-dynamodb: .venv/.stamp-dev ## Show on a real AWS account what no local server can; needs credentials
	@$(BIN)/python scripts/verify_dynamodb.py

verify-cosmos: .venv/.stamp-dev ## Show on a real Azure account what no local server can; needs COSMOS_ENDPOINT, _KEY and _DATABASE
	@$(BIN)/python scripts/verify_cosmos.py

verify-spanner: .venv/.stamp-dev ## Show on a real Spanner instance what no emulator can; needs credentials, PROJECT and INSTANCE
	@$(BIN)/python scripts/verify_spanner.py --project "$(PROJECT)" --instance "$(INSTANCE)"

bench-core: .venv/.stamp-dev ## Measure the gateway with raw PostgreSQL beside it
	@$(BIN)/python -m bench.core

wheels: .venv/.stamp-dev ## Build the wheels of the gateway and of the client into dist/
	@$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation -w dist clients/python .

baseline: .venv/.stamp-dev ## On a release: make today's contract the one that buf breaking protects
	@$(BIN)/buf build proto --exclude-source-info -o proto/baseline.binpb
	@echo "proto/baseline.binpb is today's contract"

# On the oldest supported Python: what it needs and newer ones need too has one version that all of them accept.
constraints: ## Pin every package to its newest version that fits, in constraints.txt (with Python 3.11)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed: make PYTHON=/path/to/python3.11")'
	@rm -rf .venv-pins && $(PYTHON) -m venv .venv-pins
	@.venv-pins/bin/python $(PIP_INSTALL) --upgrade pip
	@.venv-pins/bin/python $(PIP_INSTALL) -e clients/python -e '.[dev]'
	@{ echo "# Every package of every set-up, direct or not. Made by make constraints; do not edit."; \
	   .venv-pins/bin/python -m pip freeze --all --exclude-editable --exclude setuptools; } > constraints.txt
	@rm -rf .venv-pins
	@git --no-pager diff --stat -- constraints.txt

RELEASE := .venv-release/bin

lock: .venv-release/.stamp ## Write requirements.lock, what the image installs, of constraints.txt
	@printf './clients/python\n.[all]\n' > .lock.in; trap 'rm -f .lock.in .lock.out' EXIT; \
	 { echo "# What the image installs, each file by its hash. Made by make lock of constraints.txt; do not edit."; \
	   $(RELEASE)/uv pip compile .lock.in --constraints constraints.txt --generate-hashes --python-version 3.13 \
	     --python-platform x86_64-unknown-linux-gnu --no-header --no-annotate --quiet \
	     --no-emit-package changefeed-client --no-emit-package changefeed-gateway; } > .lock.out && mv .lock.out requirements.lock
	@git --no-pager diff --stat -- requirements.lock

# Strict: a package that could not be looked up is no package without a fault. It asks an advisory database, not a registry.
audit: .venv-release/.stamp ## Ask whether what the image installs has known vulnerabilities; needs the network
	@$(RELEASE)/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

sbom: .venv-release/.stamp wheels ## List what the image installs, with licences, in dist/
	@rm -rf .venv-image && $(PYTHON) -m venv .venv-image
	@$(RELEASE)/uv pip install --quiet --python .venv-image/bin/python --no-deps -r requirements.lock dist/*.whl
	@$(RELEASE)/cyclonedx-py environment .venv-image/bin/python --output-reproducible --of JSON -o dist/changefeed.sbom.json
	@$(RELEASE)/pip-licenses --python=.venv-image/bin/python --format=markdown --with-urls --output-file=dist/licences.md
	@rm -rf .venv-image && ls dist

# What a new Google library says of Python 3.11 to whoever loads it is no fault of an old one.
test-lowest: .venv-release/.stamp ## Run the quick tests with the lowest versions that pyproject.toml allows
	@rm -rf .venv-lowest && $(PYTHON) -m venv .venv-lowest
	@$(RELEASE)/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct \
	   -e clients/python -e '.[dev]'
	@PATH="$(CURDIR)/.venv-lowest/bin:$(PATH)" .venv-lowest/bin/pytest --numprocesses=$(WORKERS) --dist=loadgroup $(PYTEST_ARGS) \
	   -W "ignore:You are using a Python version:FutureWarning" \
	   tests/unit tests/properties tests/api tests/conformance -k "not conformance or memory"

helm-check: ## Render the chart with Helm's engine, check it against Kubernetes' schemas, keep what it gives; two minutes
	@tests/helm/check

clean: ## Remove all that set-up, caches and builds have made (no data)
	@rm -rf .venv .venv-gen .venv-pins .venv-release .venv-image .venv-lowest .helm .dynamodb-local .cosmos-node .cosmos-java
	@rm -rf .postgresql-15 .pgbouncer .faketime dist
	@rm -rf .clients clients/typescript/node_modules clients/typescript/dist clients/java/target
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find $(wildcard $(SOURCES) clients/python/gen) -name __pycache__ -type d -prune -exec rm -rf {} +

# What the demo and the gateway need: little, so that the first look comes soon.
.venv/.stamp: pyproject.toml clients/python/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	@echo "set-up: the gateway, into .venv"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt pip hatchling editables
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt --no-build-isolation -e clients/python -e '.[embedded]'
	@touch $@

.venv/.stamp-dev: .venv/.stamp
	@echo "set-up: tests and linters, into .venv"
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt --no-build-isolation -e clients/python -e '.[dev]'
	@touch $@

# What makes and looks over a release; no part of what it looks at.
.venv-release/.stamp: constraints-release.txt
	@rm -rf .venv-release && $(PYTHON) -m venv .venv-release
	@.venv-release/bin/python $(PIP_INSTALL) -r constraints-release.txt
	@touch $@

.venv-gen/.stamp: constraints-gen.txt
	@echo "set-up: the code generator, into .venv-gen"
	@for python in $(GEN_PYTHON) none; do \
	   test $$python = none && { echo "Python 3.11, 3.12 or 3.13 is needed: GEN_PYTHON=/path/to/python3.13"; exit 1; }; \
	   "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && break; \
	 done; "$$python" -m venv .venv-gen
	@.venv-gen/bin/python $(PIP_INSTALL) -r constraints-gen.txt
	@touch $@

# Who works on something else need not have every language; CI must.
LACKS = echo "$(1) is not found: the $(2) client is neither generated nor tested"; test "$$CI" != true

# Pinned by clients/go/generators; go.sum holds what they are made of.
.clients/.stamp-go: clients/go/generators/go.mod
	@if ! command -v go >/dev/null; then $(call LACKS,go,Go); else \
	   echo "set-up: the code generators of Go, into .clients" && \
	   cd clients/go/generators && GOBIN=$(CURDIR)/.clients/bin go install tool && touch $(CURDIR)/$@; \
	 fi

clients/typescript/node_modules/.stamp: clients/typescript/package-lock.json
	@if ! command -v npm >/dev/null; then $(call LACKS,npm,TypeScript); else \
	   echo "set-up: the TypeScript client, into clients/typescript/node_modules" && \
	   cd clients/typescript && npm ci --silent --no-audit --no-fund --ignore-scripts && touch $(CURDIR)/$@; \
	 fi

# The generator first, so that it is there when the client does not compile; then the client, with all it needs.
.clients/.stamp-rust: clients/rust/Cargo.lock clients/rust/generator/src/main.rs
	@if ! command -v cargo >/dev/null; then $(call LACKS,cargo,Rust); else \
	   echo "set-up: the Rust client and its code generator, into .clients/rust" && cd clients/rust && \
	   export CARGO_TARGET_DIR=$(CURDIR)/.clients/rust && \
	   cargo build --quiet --locked --package changefeed-client-generator && touch $(CURDIR)/$@ && \
	   cargo build --quiet --locked --examples; \
	 fi

JAVA_TOOLS = for tool in java mvn; do command -v $$tool >/dev/null || { $(call LACKS,$$tool,Java); exit; }; done
MVN := mvn --batch-mode --quiet

.clients/.stamp-java: clients/java/generators/pom.xml
	@$(JAVA_TOOLS); echo "set-up: the code generators of Java, into .clients" && \
	 $(MVN) -f $< dependency:copy-dependencies -Dmdep.stripVersion -Dmdep.stripClassifier -DoverWriteReleases \
	   -DoutputDirectory=$(CURDIR)/.clients/bin && \
	 chmod +x .clients/bin/*.exe && touch $@

# So that no test waits for the packages that come into Maven's own repository: it only looks whether all is as it was.
.clients/.stamp-java-client: clients/java/pom.xml
	@$(JAVA_TOOLS); echo "set-up: the Java client and its packages, into clients/java/target" && mkdir -p .clients && \
	 $(MVN) -f $< -DskipTests package jar:test-jar && touch $@

# What the tests of the DynamoDB provider run against, from Maven Central.
.dynamodb-local/.stamp: tests/dynamodb/local/pom.xml
	@for tool in java mvn; do command -v $$tool >/dev/null || \
	   { echo "$$tool is not found: DynamoDB Local needs a JDK (17 or newer) and Maven to be installed"; exit 1; }; done
	@echo "set-up: DynamoDB Local, into .dynamodb-local"
	@rm -rf .dynamodb-local
	@mvn --batch-mode --quiet -f $< dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/.dynamodb-local
	@touch $@

# The Node SDK that the server in the tests of Cosmos DB is held against.
.cosmos-node/.stamp: tests/cosmos/node/package-lock.json
	@for tool in node npm; do command -v $$tool >/dev/null || \
	   { echo "$$tool is not found: the Node SDK of Cosmos DB needs Node (20 or newer) with npm to be installed"; exit 1; }; done
	@echo "set-up: the Node SDK of Cosmos DB, into .cosmos-node"
	@rm -rf $(@D) && mkdir $(@D) && cp $(<D)/package.json $< $(@D)
	@npm ci --prefix $(@D) --silent --no-audit --no-fund --ignore-scripts
	@touch $@

# The Java SDK, which takes a minute to begin and is asked by hand.
.cosmos-java/.stamp: tests/cosmos/java/pom.xml
	@for tool in java mvn; do command -v $$tool >/dev/null || \
	   { echo "$$tool is not found: the Java SDK of Cosmos DB needs a JDK (17 or newer) and Maven to be installed"; exit 1; }; done
	@echo "set-up: the Java SDK of Cosmos DB, into .cosmos-java"
	@rm -rf $(@D)
	@mvn --batch-mode --quiet -f $< dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/$(@D)
	@touch $@

# Debian's own packages and the libraries that this machine lacks for them, unpacked and not installed. The package lists
# are kept apart too, so that it needs no root and finds what there is now.
APT = apt-get -qq -o Debug::NoLocking=1 -o APT::Sandbox::User= \
  -o Dir::State::lists=$(CURDIR)/$(@D)/lists -o Dir::Cache=$(CURDIR)/$(@D)/cache

define UNPACK
@for tool in apt-get dpkg; do command -v $$tool >/dev/null || \
   { echo "$$tool is not found: $(1) comes from Debian 12's packages"; exit 1; }; done
@echo "set-up: $(1), into $(@D)"
@rm -rf $(@D) && mkdir -p $(@D)/lists/partial $(@D)/cache/archives/partial
@$(APT) update
@$(APT) install --yes --download-only --reinstall --no-install-recommends $(2)
@for package in $(@D)/cache/archives/*.deb; do dpkg -x "$$package" $(@D); done
@rm -rf $(@D)/lists $(@D)/cache
endef

# The oldest PostgreSQL that is supported.
.postgresql-15/.stamp:
	$(call UNPACK,PostgreSQL 15,postgresql-15 postgresql-client-15)
	@.postgresql-15/usr/lib/postgresql/15/bin/postgres --version
	@touch $@

# What the tests of pooled connections run.
.pgbouncer/.stamp:
	$(call UNPACK,PgBouncer,pgbouncer)
	@touch $@

# What the tests of stepping clocks preload into their server.
.faketime/.stamp:
	$(call UNPACK,libfaketime,libfaketime)
	@touch $@
