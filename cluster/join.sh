#!/bin/sh
# Joins this machine to the Ray cluster of a head node that cluster/head.sh started.
#
# usage: cluster/join.sh HEAD:PORT [options of `ray start`]
#
# The head's token must be here: in RAY_AUTH_TOKEN, or in ~/.ray/auth_token.
set -eu
if [ $# -lt 1 ]; then
    echo "usage: cluster/join.sh HEAD:PORT [options of ray start]" >&2
    exit 2
fi
head=$1
shift
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
if [ -z "${RAY_AUTH_TOKEN:-}" ] && [ ! -s "${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}" ]; then
    echo "error: no token; bring the head's (ray get-auth-token there) into RAY_AUTH_TOKEN or ~/.ray/auth_token" >&2
    exit 2
fi
exec ray start --address="$head" "$@"
