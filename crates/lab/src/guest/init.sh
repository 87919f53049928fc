#!/bin/sh
# PID 1 of a lab guest: loads what the machine has, starts the agent and the service, serves the witness.
# The kernel hands its unknown parameters to us as environment (Documentation/admin-guide/kernel-parameters.rst):
#   lab_udev=1        run udevd with the rules that put hot-plugged memory and CPUs online
#   lab_agent=0       run no guest agent
#   lab_block_rpcs=a,b  calls that the guest agent refuses
export PATH=/bin:/sbin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
# A share of the memory would be one of the memory at boot; this guest grows.
# Huge pages: an emulated guest takes three times as long to fill small ones.
mount -t tmpfs -o size=1t,huge=always mem /mem
mkdir -p /dev/virtio-ports /run/witness
for order in /lib/modules/order*; do
    while read -r module; do
        insmod "$module" || echo "lab: $module does not load"
    done < "$order"
done

# port NAME: its device, once the driver has learnt the name.
port() {
    tries=0
    while [ $tries -lt 300 ]; do
        for file in /sys/class/virtio-ports/*/name; do
            if [ -e "$file" ] && [ "$(cat "$file")" = "$1" ]; then
                device=${file%/name}
                echo "/dev/${device##*/}"
                return
            fi
        done
        tries=$((tries + 1))
        sleep 0.02
    done
    echo "lab: no port $1" > /dev/console
}

if [ "$lab_udev" = 1 ]; then
    systemd-udevd --daemon
else
    # The device mapper's tools make their nodes themselves instead of waiting for udevd.
    export DM_DISABLE_UDEV=1
fi

hostname guest
ip link set lo up
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0
httpd -p 80 -h /www

if [ "$lab_agent" != 0 ]; then
    ln -sf "$(port org.qemu.guest_agent.0)" /dev/virtio-ports/org.qemu.guest_agent.0
    qemu-ga --daemonize --method virtio-serial --path /dev/virtio-ports/org.qemu.guest_agent.0 \
        --statedir /run --pidfile /run/qemu-ga.pid --logfile /run/qemu-ga.log \
        ${lab_block_rpcs:+--block-rpcs="$lab_block_rpcs"}
fi

# The witness: one request a line, `ID SECONDS COMMAND`, the command in base64; one line back,
# `ID STATUS oOUT eERR`, both in base64. Each command runs beside the others: one that hangs holds up nobody.
# One process writes all answers, so that none gets into the midst of another: Debian's busybox has no flock.
answer() {
    at=/run/witness/$1
    echo "$3" | base64 -d > "$at.sh"
    read -r began _ < /proc/uptime
    timeout -s KILL "$2" sh "$at.sh" < /dev/null > "$at.out" 2> "$at.err"
    status=$?
    if [ $status = 137 ]; then
        # By its time limit, or by a kernel that stumbled or had no memory left?
        read -r ended _ < /proc/uptime
        { echo "killed; it ran from $began to $ended s"; ps; dmesg | tail -n 40; } >> "$at.err"
    fi
    {
        printf '%s %s o' "$1" "$status"
        head -c 1048576 "$at.out" | base64 -w 0
        printf ' e'
        head -c 65536 "$at.err" | base64 -w 0
        echo
    } > "$at.line"
    rm -f "$at.sh" "$at.out" "$at.err"
    echo "$at.line" > /run/witness/answers
}

witness() {
    mkfifo /run/witness/answers
    exec 3<> "$1" 4<> /run/witness/answers
    while read -r line <&4; do
        cat "$line" >&3
        rm -f "$line"
    done &
    while :; do
        # Nothing can be read while nobody is connected on the host's side.
        if read -r id seconds command <&3; then
            # Not a child of this one: busybox's `read` forgets half a line when a child ends.
            (answer "$id" "$seconds" "$command" &)
        else
            sleep 0.05
        fi
    done
}

witness "$(port org.supple.lab)" &
echo "lab: up"
# PID 1 inherits every orphan; wait takes them in.
while :; do
    sleep 3600 &
    wait
done
