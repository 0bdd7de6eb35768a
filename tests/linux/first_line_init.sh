#!/bin/busybox sh
# shellcheck shell=dash
# The first process of the guest of `./dev bench linux` (tests/bench/peers.cc): a line at once, then the end.
# It loads no driver and mounts nothing, so that only the boot is measured.
echo "guest: the first line"
/bin/busybox poweroff -f
