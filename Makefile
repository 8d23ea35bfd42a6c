# Every command a person types here. Each does its own set-up and can be run again.
MACHINE ?= mlflow-vm
PORT    ?= 5001
ARGS    ?=

tools := .venv/.made
run   := PYTHONDONTWRITEBYTECODE= PATH="$(CURDIR)/.venv/bin:$$PATH"

.PHONY: help up down logs test bench check lint docs lock wheelhouse release
help: ## Show these commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

up: $(tools) ## Provision a machine (a container with systemd) and print its URL; ARGS="-e setting=value"
	@python3 molecule/shared/machine.py up $(MACHINE) --publish $(PORT)
	@$(run) MACHINE=$(MACHINE) ansible-playbook -i inventories/demo playbooks/site.yml -e mlflow_port=$(PORT) $(ARGS)
	@echo "MLflow answers at http://127.0.0.1:$(PORT). Its logs: make logs. Remove it: make down."

down: ## Remove the machine, its data and the images it was made from
	@python3 molecule/shared/machine.py down $(MACHINE)

logs: ## Follow the server's log
	@docker exec $(MACHINE) journalctl --unit=mlflow --lines=50 --follow --output=cat

test: $(tools) ## Lint, unit tests, the program's tests and every Molecule scenario; SCENARIO=name for one, LANE=1/3 for a third of all
	@$(run) python molecule/shared/suite.py $(if $(LANE),--lane $(LANE)) $(SCENARIO)

bench: $(tools) ## Measure beside stock MLflow and hand-written installs; ONLY=group for one group
	@python3 molecule/shared/machine.py image bookworm >/dev/null
	@$(run) python bench/run.py $(if $(ONLY),--only $(ONLY))

check: $(tools) ## Lint, unit tests and the program's tests: what to run after each edit
	@$(run) python molecule/shared/suite.py --check

lint: $(tools) ## Lint only
	@$(run) python molecule/shared/suite.py --lint

docs: $(tools) ## Build the site of docs/ into build/docs
	@$(run) NO_MKDOCS_2_WARNING=1 mkdocs build --strict --config-file .mkdocs.yml
	@echo "Open build/docs/index.html. With search: .venv/bin/python -m http.server --directory build/docs"

lock: $(tools) ## Lock the newest tools and, with VERSION=x, the packages of MLflow x
	@$(run) python requirements/lock.py $(VERSION)

wheelhouse: $(tools) ## Fill files/wheels for machines without internet; PYTHON="3.11 3.13" ARCH=x86_64 VERSION=x REQUIREMENTS=file EXTRA="name==version"
	@$(run) python requirements/wheelhouse.py $(if $(PYTHON),--python $(PYTHON)) $(if $(ARCH),--arch $(ARCH)) \
		$(if $(VERSION),--version $(VERSION)) $(if $(REQUIREMENTS),--requirements $(REQUIREMENTS)) $(if $(EXTRA),--extra $(EXTRA:%='%'))

release: $(tools) ## Gather changelogs/fragments into CHANGELOG.md, as the version that galaxy.yml names
	@$(run) antsibull-changelog release

$(tools): requirements/control.txt roles/mlflow/files/locks/uv.txt molecule/shared/machine.py
	@python3 molecule/shared/machine.py tools
