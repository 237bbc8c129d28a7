#!/bin/sh
# Run by the generated Dockerfile after requirements.lock: the list requirements-nodeps.lock, which
# BentoML has no place for. A test keeps the two equal.
set -eu
uv pip install --no-deps xgrammar==0.2.8
