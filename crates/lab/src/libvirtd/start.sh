# The first process of the lab's libvirtd: lays its world out, starts it, and reaps what nobody else waits for.
#
# It runs in mount and process namespaces of its own, as (at least there) root. $DIR is the daemon's directory, $TREES
# the unpacked packages that lie over /usr, $CAPS a directory that outlives the daemon. It will not write outside of
# these two. $MODE is `system`, or `session` where root is so only here. When it ends, the kernel ends all that it
# started.
set -eu

usr= lib=
for tree in $TREES; do
    usr="$usr$tree/usr:"
    if [ -d "$tree/lib/x86_64-linux-gnu" ]; then lib="$lib$tree/lib/x86_64-linux-gnu:"; fi
done
if [ -n "$usr" ]; then mount -t overlay -o "lowerdir=$usr/usr" overlay /usr; fi
if [ -n "$lib" ]; then
    mount -t overlay -o "lowerdir=$lib/usr/lib/x86_64-linux-gnu" overlay /usr/lib/x86_64-linux-gnu
fi

# A program dies of modules that are another version's: these directories are one tree's alone.
for tree in $TREES; do
    for dir in usr/lib/x86_64-linux-gnu/qemu usr/lib/x86_64-linux-gnu/libvirt; do
        if [ -d "$tree/$dir" ]; then mount --bind "$tree/$dir" "/$dir"; fi
    done
done

# libvirtd does not start without the user that its package's installation makes.
cat /etc/passwd > "$DIR/etc/passwd"
cat /etc/group > "$DIR/etc/group"
grep -q ^libvirt-qemu: /etc/passwd || echo libvirt-qemu:x:64055:64055::/nonexistent:/bin/false >> "$DIR/etc/passwd"
grep -q ^libvirt-qemu: /etc/group || echo libvirt-qemu:x:64055: >> "$DIR/etc/group"
mount -t overlay -o "lowerdir=$DIR/etc:/etc" overlay /etc
mount --bind "$DIR/conf" /etc/libvirt
mount --bind "$DIR/lib" /var/lib
mount --bind "$DIR/log" /var/log
mount --bind "$CAPS" /var/cache
mount --bind "$DIR/run" /run

# What this machine lacks and libvirtd runs.
export PATH="$DIR/bin:$PATH"

# Only QEMU's driver: the others look at the host's devices and networks.
ln -s /usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so "$DIR/drivers/"
export LIBVIRT_DRIVER_DIR="$DIR/drivers"

# One who is root only here may not choose his groups, as a privileged libvirtd does for each QEMU: be nobody in it.
as=
if [ "$MODE" = session ]; then
    as="unshare --user --map-user=1000 --map-group=1000"
    export HOME="$DIR/lib" XDG_CONFIG_HOME="$DIR" XDG_CACHE_HOME="$CAPS" XDG_RUNTIME_DIR="$DIR/run"
    ln -s conf "$DIR/libvirt"
fi

# A libvirtd that is ended is started again, as a service manager would; its guests run on meanwhile.
while :; do
    $as /usr/sbin/libvirtd --config "$DIR/conf/libvirtd.conf" &
    wait $! || echo "libvirtd ended with $?"
done
