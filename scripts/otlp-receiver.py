"""Receives OTLP exports for measurements. Replies to every export at once, and counts the received bytes. Prints its port first, and
then, once per second, the number of received bytes by method. Needs grpcio (tests/clients/python/requirements.txt)."""

import collections
import time
from concurrent import futures

import grpc

received = collections.Counter()


class Everything(grpc.GenericRpcHandler):
    """Handles every method. The reply is an empty message, which is a valid OTLP response to every method."""

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
