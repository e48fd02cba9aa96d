"""The floor: a bare grpc.aio server on uvloop that answers every call with the same bytes.

Same methods and sizes as the checker's, no parsing, no interceptor. Prints its address and serves until terminated.
"""

import sys

import grpc
import uvloop


class _Echo(grpc.GenericRpcHandler):
    def __init__(self, sizes: dict[str, int]) -> None:
        self._answers = {f"/checker.v1.CheckService/{method}": bytes(size) for method, size in sizes.items()}

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        answer = self._answers.get(details.method)
        if answer is None:
            return None

        async def reply(request: bytes, context: object) -> bytes:
            return answer

        return grpc.unary_unary_rpc_method_handler(reply)


async def _serve(unary: int, batch: int) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Echo({"Check": unary, "BatchCheck": batch}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
