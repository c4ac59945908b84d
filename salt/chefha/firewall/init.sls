# Closed but for the ports that are needed, on back and front ends. What is connected stays connected.

include:
  - chefha.common

chefha_firewall:
  chefha.firewall:
    - require:
      - chefha: chefha_settings
