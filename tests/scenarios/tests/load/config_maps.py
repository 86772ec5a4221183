"""Writes ConfigMaps over and over, whatever happens to the server, until its input ends; a JSON line an attempt.

A client's maps are its own, so that what it last got an answer for must be there in the end.
"""

import http.client
import json
import ssl
import sys
import threading
import time

host, port, pki, clients = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
context = ssl.create_default_context(cafile=f"{pki}/ca.crt")
context.load_cert_chain(f"{pki}/admin.crt", f"{pki}/admin.key")
ended = threading.Event()
printing = threading.Lock()
maps = "/api/v1/namespaces/default/configmaps"


def ask(connection, method, path, body):
    connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    return answer.status, text


def client(number):
    connection, n, exists = None, 0, set()
    while not ended.is_set():
        name = f"load-{number}-{n // 20}"
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": str(n)}}
        row = {"name": name, "n": n, "from": time.monotonic()}
        try:
            if connection is None:
                connection = http.client.HTTPSConnection(host, port, context=context, timeout=30)
            if name in exists:
                status, text = ask(connection, "PUT", f"{maps}/{name}", body)
            else:
                status, text = ask(connection, "POST", maps, body)
                if status == 409:
                    # Made by a request whose answer never came.
                    status, text = ask(connection, "PUT", f"{maps}/{name}", body)
            row["status"] = status
            if status in (200, 201):
                row["version"] = int(json.loads(text)["metadata"]["resourceVersion"])
                exists.add(name)
            else:
                row["said"] = text.decode(errors="replace")[:300]
                time.sleep(0.02)
        except (OSError, http.client.HTTPException) as error:
            row["error"] = repr(error)
            if connection is not None:
                connection.close()
            connection = None
            time.sleep(0.02)
        row["to"] = time.monotonic()
        with printing:
            print(json.dumps(row), flush=True)
        n += 1


threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
for thread in threads:
    thread.start()
sys.stdin.read()
ended.set()
for thread in threads:
    thread.join()
