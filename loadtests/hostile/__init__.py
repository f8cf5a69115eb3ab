"""Sends hostile SIP and RTP to a running gateway on this machine and checks that it goes on answering.

    python -m loadtests.hostile --target 127.0.0.1:5060 --sip 10000 --rtp 10000 --seed 1 \\
        --rtp-targets 127.0.0.1:40000 --torture ../shared/data/sip/rfc4475

Four stages, one after the other: the torture messages of RFC 4475, the messages that are known to have
killed a pjsua2 process, seeded mutations of valid SIP, and seeded mutations of RTP and RTCP.  Every 200
messages a clean OPTIONS must be answered within 2 s, or the run ends and the exit status is 1.  The last line
of stdout is JSON.

    message      valid requests and responses        known, mutations, rtp   what is made of them
    agent        ends every call that comes about    sender                  sockets, pacing, probes, stages
    command      the command line and its report

What is here knows nothing of the gateway's insides: it sees datagrams and answers.  The one rule: what is
sent depends on the seed and on our own port numbers alone; --replay keeps the last messages byte for byte.
"""
