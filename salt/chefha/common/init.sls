# What back and front ends begin with: the pillar checked, the library, the settings for the verbs.

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
