"""Print the last address of a Docker network with its prefix length: ``python3 virtual_address.py NETWORK``."""

import ipaddress
import json
import subprocess
import sys

shown = subprocess.run(["docker", "network", "inspect", sys.argv[1]], check=True, capture_output=True, text=True).stdout
subnets = [ipaddress.ip_network(each["Subnet"]) for each in json.loads(shown)[0]["IPAM"]["Config"]]
network = next(each for each in subnets if each.version == 4)
print(f"{network[-2]}/{network.prefixlen}")
