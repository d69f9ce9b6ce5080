#!/usr/bin/env bash
# The Dockerfile's own steps without Docker: each stage becomes a new virtual environment, each
# path of the image one below FOLDER. System packages and the user are left out. Then the lock, the
# health check and the commands are tried from an empty folder.
#
#   cluster/image_steps.sh [--print | FOLDER]    # a new folder, which stays; else a temporary one
#
# --print only shows the steps. PYTHON (python3) should be of the image's version, for which the
# lock is made. TORCH_INDEX overrides the Dockerfile's: https://pypi.org/simple, where that is all
# that can be reached.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=$("${PYTHON:-python3}" -c 'import sys; print(sys.executable)') # from the root: steps cd

# The Dockerfile without comments, continued lines joined.
instructions() {
    sed '/^#/d' "$ROOT/cluster/Dockerfile" |
        sed -e ':again' -e '/\\$/{N' -e 's/ *\\\n */ /' -e 'b again' -e '}'
}

# A command in Docker's JSON form as words for a shell.
words() {
    "$PYTHON" -c 'import json, shlex, sys; print(shlex.join(json.loads(sys.argv[1])))' "$1"
}

# A shell program that does what the instructions say.
steps() {
    local stage=0 name rest from to command
    while read -r name rest; do
        case "$name $rest" in
            "FROM "*)
                stage=$((stage + 1))
                echo "\"\$PYTHON\" -m venv \"\$WORK/venv$stage\""
                echo "PATH=\"\$WORK/venv$stage/bin:\$CLEAN_PATH\""
                ;;
            "ARG PYTHON="*) ;;
            "ARG "*) echo ": \"\${${rest%%=*}:=${rest#*=}}\"" ;;
            "ENV "*) echo "export $rest" ;;
            "WORKDIR "*) echo "mkdir -p \"\$WORK$rest\"; cd \"\$WORK$rest\"" ;;
            "COPY "*)
                to=${rest##* }
                for from in ${rest% *}; do
                    echo "cp -r \"\$ROOT/$from\" \"${to/#\//\$WORK/}\""
                done
                ;;
            "RUN "*"pip "*) sed -E 's/--mount=[^ ]+ +//g; s#(^|[ =])/#\1"$WORK"/#g' <<< "$rest" ;;
            "RUN apt-get "* | "RUN useradd "* | "USER "*) ;;
            "HEALTHCHECK "* | "CMD "*)
                command=$(words "[${rest#*[}") || return
                echo "(cd \"\$EMPTY\"; $command)"
                ;;
            " ") ;;
            *)
                echo "image_steps.sh does not know: $name $rest" >&2
                return 1
                ;;
        esac
    done < <(instructions)
}

# What must hold then: the lock is what was installed, and fattr runs from where it was put.
checks() {
    cat << 'END'
pip check
python "$ROOT/tests/cluster_files/lock.py" | diff "$ROOT/cluster/constraints.txt" -
cd "$EMPTY"
python -c 'import sys, fattr; assert fattr.__file__.startswith(sys.prefix + "/"), fattr.__file__'
python "$WORK/home/fattr/jobs/annotate.py" --help > help.txt
END
}

program=$(steps && checks)
if [[ ${1:-} == --print ]]; then
    echo "$program"
    exit
fi
if [[ $# -gt 0 ]]; then
    mkdir "$1"
    WORK=$(cd "$1" && pwd)
else
    WORK=$(mktemp -d)
    trap 'rm -rf "$WORK"' EXIT
fi
CLEAN_PATH=$PATH
EMPTY=$WORK/empty
mkdir "$EMPTY"
unset PYTHONPATH
PS4='==> '
eval "set -x
$program"
