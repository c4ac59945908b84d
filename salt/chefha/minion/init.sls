# What makes a minion able to carry the back end: the pillar checked, the library, the beacon, a unit that restarts.

chefha_checked:
  chefha.checked:
    - order: 1
    - failhard: True

chefha_library:
  chefha.library:
    - failhard: True
    - require:
      - chefha: chefha_checked

chefha_settings:
  chefha.settings:
    - failhard: True
    - require:
      - chefha: chefha_library

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
