# Redis forks to save in a memory cgroup that has no room for the copies: redis_snapshot.sh CGROUP DIRECTORY
set -u
cgroup=$1
cd "$2" || exit
if [ -f "$cgroup/memory.max" ]; then limit=memory.max; else limit=memory.limit_in_bytes; fi
# Its files are in memory before, on nobody's account there: a full cgroup would throw them out and read them
# again for minutes, instead of killing.
program=$(command -v redis-server)
for file in "$program" $(ldd "$program" | grep -o '/[^ ]*'); do cat "$file" > ping; done
echo 130M > "$cgroup/$limit"
[ -f "$cgroup/memory.swap.max" ] && echo 0 > "$cgroup/memory.swap.max"
sh -c "echo \$\$ > $cgroup/cgroup.procs; exec redis-server --port 7779 --save '' --appendonly no --logfile log" &
server=$!
for _ in $(seq 100); do redis-cli -p 7779 ping > ping 2>&1 && grep -q PONG ping && break; sleep 0.3; done
cat > fill.py << 'P'
import socket, sys
s = socket.create_connection(("127.0.0.1", 7779))
value = sys.argv[1].encode() * 200000
for n in range(int(sys.argv[2])):
    key = b"k:%d" % n
    s.sendall(b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(key), key, len(value), value))
    try:
        if not s.recv(100):
            break
    except OSError:
        break
P
python3 fill.py x 400
# The child comes to an end after all keys have been written anew: what it shares is copied by then.
redis-cli -p 7779 config set rdb-key-save-delay 1000000
redis-cli -p 7779 bgsave
python3 fill.py y 400
for _ in $(seq 100); do kill -0 $server 2> ping && ! grep -q 'terminated by signal' log || break; sleep 0.1; done
grep -E "signal|fork|Background|Can't" log
redis-cli -p 7779 shutdown nosave > ping 2>&1
# A child whose parent was killed goes on, and keeps our output open.
kill -9 $server $(cat "$cgroup/cgroup.procs") 2> ping
wait
