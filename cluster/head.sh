#!/bin/sh
# Starts the head node of a Ray cluster on this machine. Only who has its token can talk to it: without, whoever reaches
# the port can run code here.
#
# usage: cluster/head.sh [options of `ray start`]
#
# The token is RAY_AUTH_TOKEN, or else ~/.ray/auth_token, which is made if there is none. Bring it to the other machines
# and to whoever submits jobs (`ray get-auth-token` prints it), and start the other machines with cluster/join.sh.
set -eu
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
if [ -z "${RAY_AUTH_TOKEN:-}" ]; then
    (umask 077 && ray get-auth-token --generate >/dev/null)
fi
exec ray start --head --include-dashboard=false "$@"
