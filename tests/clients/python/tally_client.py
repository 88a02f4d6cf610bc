"""A client of Tally without generated code. It gets all messages and methods from the server by reflection."""

import base64
import socket

import grpc
import h2.config
import h2.connection
import h2.events
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

# Timeout of a call, in seconds. No call takes this long even on a busy machine: the timeout only ends a test that hangs.
TIMEOUT_S = 20
CODES = {code.value[0]: code for code in grpc.StatusCode}


class Tally:
    """Calls `Service.Method` with a request from keyword arguments."""

    def __init__(self, endpoint):
        self.endpoint = endpoint
        self.channel = grpc.insecure_channel(endpoint)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def message(self, name, **fields):
        """Returns a message of the type `name`: a full name, or a name in the package tally.v1."""
        full_name = name if "." in name else f"tally.v1.{name}"
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(full_name))(**fields)

    def method(self, name):
        """Returns a callable for `Service.Method`, and the class of its requests."""
        full_name = name if name.count(".") > 1 else f"tally.v1.{name}"
        service, method = full_name.rsplit(".", 1)
        descriptor = self.pool.FindServiceByName(service).FindMethodByName(method)
        request, response = map(message_factory.GetMessageClass, (descriptor.input_type, descriptor.output_type))
        streaming = descriptor.client_streaming, descriptor.server_streaming
        stub = {
            (False, False): self.channel.unary_unary,
            (True, True): self.channel.stream_stream,
        }[streaming](
            f"/{service}/{method}", request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
        return stub, request

    def call(self, name, request=None, **fields):
        """Returns the response. Raises `Refused` if the call fails."""
        stub, request_class = self.method(name)
        try:
            return stub(request or request_class(**fields), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
            raise Refused(error.code(), status_pb2.Status.FromString(details)) from error

    def stream(self, name, requests):
        """Returns all responses of a stream."""
        stub, _ = self.method(name)
        return list(stub(iter(requests), timeout=TIMEOUT_S))

    def refusal_with_headers(self, name, request, headers):
        """Sends a request with these headers and returns the error. Does not use grpcio, which reserves headers such as
        `grpc-timeout`."""
        host, port = self.endpoint.rsplit(":", 1)
        connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        connection.initiate_connection()
        pseudo = {":method": "POST", ":scheme": "http", ":path": f"/tally.v1.{name.replace('.', '/')}", ":authority": host}
        grpc_headers = {"content-type": "application/grpc", "te": "trailers", **headers}
        connection.send_headers(1, [*pseudo.items(), *grpc_headers.items()])
        body = request.SerializeToString()
        connection.send_data(1, b"\0" + len(body).to_bytes(4, "big") + body, end_stream=True)
        answer = {}
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as tcp:
            while "grpc-status" not in answer:
                tcp.sendall(connection.data_to_send())
                received = tcp.recv(65536)
                assert received, "the server closed the connection"
                for event in connection.receive_data(received):
                    if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                        answer.update(event.headers)
        details = answer.get("grpc-status-details-bin", "")
        status = status_pb2.Status.FromString(base64.b64decode(details + "=" * (-len(details) % 4)))
        return Refused(CODES[int(answer["grpc-status"])], status)


class Refused(Exception):
    """An error of the service, with its details decoded."""

    def __init__(self, code, status):
        super().__init__(code, status)
        self.code = code
        self.info = unpack(status, error_details_pb2.ErrorInfo)
        self.fields = [violation.field for violation in unpack(status, error_details_pb2.BadRequest).field_violations]

    @staticmethod
    def of_value(value):
        """Makes the error from a `google.rpc.Status` in a response."""
        status = status_pb2.Status.FromString(value.SerializeToString())
        return Refused(CODES[status.code], status)


def unpack(status, detail_class):
    """Returns the first detail of this class, or an empty detail."""
    detail = detail_class()
    for packed in status.details:
        if packed.Unpack(detail):
            break
    return detail
