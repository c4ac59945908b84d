# What makes a minion able to carry the back end: what is common to all, the beacon, a unit that restarts.

include:
  - chefha.common

chefha_minion:
  chefha.minion:
    - require:
      - chefha: chefha_settings

chefha_reload_units:
  cmd.run:
    - name: systemctl daemon-reload
    - onchanges:
      - chefha: chefha_minion

chefha_beacon:
  chefha.beacon:
    - require:
      - chefha: chefha_settings
