#!/bin/sh
# Collect the Python code that tinycode learned from: the standard library of the running Python, and the
# packages in requirements.txt, all under permissive licences; without tests, and without vendored copies.
#
#   sh make_corpus.sh corpus
set -eu
out=$1
here=$(dirname "$0")
python -m pip install --quiet --no-deps --no-compile --target "$out" -r "$here/requirements.txt"
standard=$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
mkdir -p "$out/standard_library"
(cd "$standard" && find . -name '*.py' -not -path './site-packages/*' -not -path './test/*' -print |
  tar cf - -T -) | tar xf - -C "$out/standard_library"
find "$out" -type d \( -name tests -o -name test -o -name testing -o -name idle_test -o -name _vendor \
  -o -name vendor -o -name _distutils_hack -o -name '*.dist-info' -o -name '*.libs' \) -prune -exec rm -r {} +
find "$out" -type f -not -name '*.py' -delete
