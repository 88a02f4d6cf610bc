"""An OTLP receiver for measurements: answers every export at once, and counts bytes. Prints its port first, and once a second
what it got. Needs grpcio (tests/clients/python/requirements.txt)."""

import collections
import time
from concurrent import futures

import grpc

received = collections.Counter()


class Everything(grpc.GenericRpcHandler):
    """Whatever is called, an empty message is an answer of OTLP."""

    def service(self, handler_call_details):
        def export(request, _context):
            received[handler_call_details.method] += len(request)
            return b""

        return grpc.unary_unary_rpc_method_handler(export)


server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)])
server.add_generic_rpc_handlers((Everything(),))
print("port", server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
while True:
    time.sleep(1)
    print(dict(received), flush=True)
