# Redis forks to save in a memory cgroup that has no room for the copies: redis_snapshot.sh CGROUP DIRECTORY
set -u
cgroup=$1
cd "$2" || exit
if [ -f "$cgroup/memory.max" ]; then limit=memory.max; else limit=memory.limit_in_bytes; fi
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
redis-cli -p 7779 config set rdb-key-save-delay 20000
redis-cli -p 7779 bgsave
python3 fill.py y 400
sleep 3
grep -E "signal|fork|Background|Can't" log
redis-cli -p 7779 shutdown nosave > ping 2>&1
kill -9 $server 2> ping
wait
