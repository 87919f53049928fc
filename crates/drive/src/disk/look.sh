# Prints what this system shows of its block devices, one fact a line, words kept apart by tabs. Changes nothing.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin
LC_ALL=C
export PATH LC_ALL
usual=$IFS
tab='	'
newline='
'
say() { IFS=$tab; printf '%s\n' "$*"; IFS=$usual; }
# first FILE: its first line, without a process.
first() { value=; [ -r "$1" ] && read -r value < "$1"; }
# node NAME: its path; the kernel writes ! for a slash in a name.
node() { case $1 in *!*) node=/dev/$(printf %s "$1" | tr '!' /) ;; *) node=/dev/$1 ;; esac; }

devices= disks= numbered= volumes= mounted=' '
cd /sys/class/block || exit 1
for name in *; do
    case $name in loop* | ram* | zram* | fd* | sr* | nbd* | mtdblock*) continue ;; esac
    first "$name/size"; size=$value
    case $size in '' | 0) continue ;; esac
    first "$name/start"; start=$value
    first "$name/partition"; partition=$value
    first "$name/dm/name"; mapped=$value
    first "$name/dm/uuid"; uuid=$value
    case $uuid in LVM-*) volumes=1 ;; esac
    first "$name/dev"; numbers=$value
    first "$name/serial"; serial=$value
    [ "$serial" ] || { first "$name/device/serial"; serial=$value; }
    if [ -z "$serial" ] && [ -r "$name/device/vpd_pg80" ]; then
        serial=$(tail -c +5 "$name/device/vpd_pg80" 2> /dev/null | tr -cd '!-~')
    fi
    below=
    for slave in "$name"/slaves/*; do
        [ -e "$slave" ] && below="$below ${slave##*/}"
    done
    if [ -z "$partition" ] && [ -e "$name/device" ]; then disks="$disks $name"; fi
    cd -P "$name" && at=${PWD#/sys}
    cd /sys/class/block
    say B "$name" "$size" "$start" "$partition" "$mapped" "$uuid" "$at" "$serial" "${below# }"
    numbered="$numbered $name $numbers"
    has=
    for part in "$name/$name"*; do [ -e "$part/partition" ] && has=1; done
    node "$name"
    [ "$has" ] || devices="$devices $numbers ${mapped:+/dev/mapper/}${mapped:-$node}"
done
# A disk's table: the second sector of a GPT begins with its name. Without partitions there is none to tell.
for name in $disks; do
    has=
    for part in "$name/$name"*; do [ -e "$part/partition" ] && has=1; done
    [ "$has" ] || continue
    first "$name/queue/logical_block_size"
    node "$name"
    mark=$(dd if="$node" bs=8 skip=$((${value:-512} / 8)) count=1 2> /dev/null | tr -cd A-Z)
    if [ "$mark" = EFIPART ]; then say P "$name" gpt; else say P "$name" dos; fi
done
while read -r id parent numbers root place rest; do
    fields=${rest#* - }
    kind=${fields%% *}
    fields=${fields#* }
    source=${fields%% *}
    case $source in /dev/*) ;; *) continue ;; esac
    # The kernel writes spaces in it as \040.
    case $place in *%*) continue ;; *\\*) place=$(printf "$place") ;; esac
    # A btrfs has numbers of its own: it is known by its device.
    [ "$kind" = btrfs ] && numbers=$(readlink -f "$source")
    set -- $(stat -f -c '%S %b' "$place" 2> /dev/null)
    say M "$numbers" "$root" "$kind" "$place" "$1" "$2"
    # Of one with an odd place nothing may be made: its mark is asked for then.
    case $place in *[!\ -~]*) ;; *) mounted="$mounted$numbers " ;; esac
done < /proc/self/mountinfo
set -- $numbered
while [ $# -ge 2 ]; do
    say N "$1" "$2"
    shift 2
done
if [ -r /proc/swaps ]; then
    { read -r header; while read -r name rest; do say S "$name"; done; } < /proc/swaps
fi
for filesystem in /sys/fs/btrfs/*/devices; do
    [ -e "$filesystem" ] || continue
    set --
    for name in "$filesystem"/*; do set -- "$@" "${name##*/}"; done
    say F "$@"
done
# What lies on a device that is not mounted, only its own mark tells. LVM is asked only where there is something of its own:
# its program takes longer than all the rest.
marked=
set -- $devices
while [ $# -ge 2 ]; do
    case $mounted in *" $1 "*) ;; *) marked="$marked $2" ;; esac
    shift 2
done
if [ -z "$marked" ]; then
    :
elif command -v blkid > /dev/null; then
    marks=$(blkid $marked 2> /dev/null)
    set -f
    IFS=$newline
    set -- $marks
    IFS=$usual
    set +f
    for line in "$@"; do
        kind=${line##* TYPE=\"}
        [ "$kind" = "$line" ] && continue
        kind=${kind%%\"*}
        say I "${line%%:*}" "$kind"
        if [ "$kind" = LVM2_member ]; then volumes=1; fi
    done
else
    volumes=1
fi
if [ "$volumes" ] && command -v pvs > /dev/null; then
    pvs --noheadings --nosuffix --units b --separator '|' -o pv_name,vg_name,pv_size,vg_free 2> /dev/null |
        while IFS= read -r line; do say V "$line"; done
fi
for tool in growpart sfdisk cryptsetup pvresize lvextend resize2fs xfs_growfs btrfs; do
    command -v $tool > /dev/null && say T $tool
done
exit 0
