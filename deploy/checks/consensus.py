#!/usr/bin/env python3
"""The least of a consensus client: it drives one builder's Engine API, two seconds a block.

usage: consensus.py URL JWTFILE      until Ctrl-C
"""
import base64
import hashlib
import hmac
import json
import pathlib
import sys
import threading
import time
import urllib.request

ZERO = "0x" + "00" * 32


def token(secret):
    """A bearer token as the Engine API wants it."""
    encode = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=")
    head = encode(b'{"alg":"HS256","typ":"JWT"}') + b"." + encode(json.dumps({"iat": int(time.time())}).encode())
    return (head + b"." + encode(hmac.new(secret, head, hashlib.sha256).digest())).decode()


class Consensus(threading.Thread):
    """Builds block after block, until it is told to stop."""

    def __init__(self, where, jwt, slot=2.0):
        """`where` says where the Engine API is at the moment."""
        super().__init__(daemon=True)
        self.where, self.jwt, self.slot = where, bytes.fromhex(jwt), slot
        self.head, self.number, self.faults, self.stopping = None, 0, [], threading.Event()

    def call(self, method, *params):
        request = urllib.request.Request(
            self.where(), json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {token(self.jwt)}"})
        answer = json.load(urllib.request.urlopen(request, timeout=5))
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def choose(self, block, attributes=None):
        state = {"headBlockHash": block, "safeBlockHash": ZERO, "finalizedBlockHash": ZERO}
        return self.call("engine_forkchoiceUpdatedV3", state, attributes)["payloadId"]

    def build(self):
        """One block, from attributes to head."""
        now = int(time.time())
        attributes = {"timestamp": hex(max(now, self.time + 1)), "prevRandao": "0x" + f"{self.number:064x}",
                      "suggestedFeeRecipient": "0x" + "11" * 20, "withdrawals": [], "parentBeaconBlockRoot": ZERO}
        payload = self.choose(self.head["hash"], attributes)
        self.stopping.wait(self.slot)
        built = self.call("engine_getPayloadV4", payload)
        block = built["executionPayload"]
        status = self.call("engine_newPayloadV4", block, [], ZERO, built["executionRequests"])
        if status["status"] != "VALID":
            raise RuntimeError(f"a block of the builder is {status}")
        self.choose(block["blockHash"])
        self.head, self.number, self.time = {"hash": block["blockHash"]}, self.number + 1, int(block["timestamp"], 16)

    def run(self):
        while not self.stopping.is_set():
            try:
                if self.head is None:
                    self.head = self.call("eth_getBlockByNumber", "latest", False)
                    self.time = int(self.head["timestamp"], 16)
                self.build()
            except Exception as fault:  # Whatever it is, the next slot comes.
                self.faults.append(f"{time.strftime('%H:%M:%S')} block {self.number + 1}: {fault}")
                self.stopping.wait(0.5)


def main():
    url, secret = sys.argv[1], pathlib.Path(sys.argv[2]).read_text().strip().removeprefix("0x")
    consensus = Consensus(lambda: url, secret)
    consensus.start()
    shown = 0
    try:
        while True:
            time.sleep(1)
            if consensus.number > shown:
                print(f"block {consensus.number} is {consensus.head['hash']}", flush=True)
                shown = consensus.number
            while consensus.faults:
                print(consensus.faults.pop(0), flush=True)
    except KeyboardInterrupt:
        consensus.stopping.set()


if __name__ == "__main__":
    main()
