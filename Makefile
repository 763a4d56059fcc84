UV = $(shell command -v uv || echo python3 -m uv)

.DEFAULT_GOAL := help
.PHONY: help setup check test parity bench

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install uv where it is missing, then the workspace into .venv
	command -v uv >/dev/null || python3 -m pip install -q uv
	$(UV) sync

check: ## format, lint, types, requirements.txt
	$(UV) run ruff format --check .
	$(UV) run ruff check .
	$(UV) run mypy packages/*/src apps/*/src tools
	$(UV) run python tools/requirements.py check

test: ## every test but the slow campaigns
	$(UV) run pytest

parity: ## both backends against each other
	$(UV) run pytest tests/test_parity.py -q

bench: ## time a training step on this machine
	$(UV) run lm-bench train --parts step --cases nanogpt-char
