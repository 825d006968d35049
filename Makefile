# make book: everything, from nothing to the site.  make test: everything is checked.  make: this help.
.DEFAULT_GOAL := help
.PHONY: help install book site test lab publish clean
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed

help:
	@echo "make book     install, train a small model, let it write, re-run every chapter, make the site in _docs/"
	@echo "make test     install, and check everything: notebooks, laws, reruns, pages"
	@echo "make lab      open JupyterLab on the notebooks"
	@echo "make site     only make the pages again, from what has run"
	@echo "make publish  put finished runs in place of the published results (changes tracked files)"
	@echo "make clean    remove what was made: _docs, _proc, _runs (.venv stays)"

# made again only if the list of packages changes
$(STAMP): pyproject.toml constraints.txt
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "vtd needs Python 3.11 or newer: make $(or $(MAKECMDGOALS),book) PYTHON=/path/to/python3.11"; exit 1; }
	@echo "installing into .venv (some minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -e '.[clip,offline,umap,peers,lab,hub,cluster,dev]'
	@touch $@

install: $(STAMP)

book: $(STAMP)
	@$(BIN)/python -m vtd.book

site: $(STAMP)
	@$(BIN)/python -m vtd.book site

test: $(STAMP)
	@bash .ci/check

lab: $(STAMP)
	@$(BIN)/jupyter lab nbs

publish: $(STAMP)
	@$(BIN)/python -m vtd.book publish
	@$(BIN)/nbdev_clean

clean:
	@rm -rf _docs _proc _runs
