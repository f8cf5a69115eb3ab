"""The chart's real parts as processes of this machine, each with the command, the environment and the configuration
that are rendered for it.

    helm.py       rendering
    pod.py        a gateway's pod: gateway and model server, and how Kubernetes ends it
    programs.py   Kamailio, Redis and coturn

What is replaced is where a cluster would be asked: addresses (loopback), names of its DNS, folders of volumes.
"""
