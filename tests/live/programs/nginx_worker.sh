# Workers of nginx take memory of their own for a request that does not fit: nginx_worker.sh CGROUP DIRECTORY COUNT
# What they share with their master, a large map, nobody writes.
set -u
cgroup=$1
cd "$2" || exit
if [ -f "$cgroup/memory.max" ]; then limit=memory.max; else limit=memory.limit_in_bytes; fi
{
	echo "user root; worker_processes 1; pid $PWD/pid; error_log $PWD/errors; events { }"
	echo "http { access_log off; client_body_temp_path $PWD/body; proxy_temp_path $PWD/proxy;"
	echo "fastcgi_temp_path $PWD/fast; uwsgi_temp_path $PWD/uwsgi; scgi_temp_path $PWD/scgi;"
	echo 'map_hash_max_size 131072; map_hash_bucket_size 256; map $arg_key $value { default 0;'
	awk 'BEGIN { for (n = 0; n < 100000; n++) printf("key-%d-of-a-hundred-thousand \"value-%d\";\n", n, n) }'
	echo "} server { listen unix:$PWD/socket; client_max_body_size 0;"
	echo 'client_body_buffer_size 200m; client_body_in_single_buffer on;'
	echo "location / { proxy_pass http://unix:$PWD/socket:/ok; } location = /ok { return 200; } } }"
} > conf
# Its files are in memory before, on nobody's account there: a full cgroup would throw them out and read them
# again for minutes, instead of killing.
nginx -t -p "$PWD" -c "$PWD/conf" 2> tested || { cat tested; exit 1; }
sh -c "echo \$\$ > $cgroup/cgroup.procs; exec nginx -p $PWD -c $PWD/conf" 2> start
[ -S socket ] || { cat start errors; exit 1; }
grep -E 'VmRSS|RssAnon' "/proc/$(cat pid)/status"
echo 80M > "$cgroup/$limit"
[ -f "$cgroup/memory.swap.max" ] && echo 0 > "$cgroup/memory.swap.max"
cat > post.py << 'P'
import socket, sys
for _ in range(int(sys.argv[1])):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60)
    s.connect("socket")
    size = 150 << 20
    try:
        s.sendall(b"POST / HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size >> 20):
            s.sendall(b"x" * (1 << 20))
        print("answered", s.recv(100))
    except OSError:
        pass
P
python3 post.py "$3"
kill -QUIT "$(cat pid)"
for _ in $(seq 100); do [ -f pid ] || break; sleep 0.1; done
grep -c 'exited on signal 9' errors
