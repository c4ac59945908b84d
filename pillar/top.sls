# Members, front ends and the master, and nobody else. Secrets made by `salt-run chefha.secrets` are not in it.
base:
  'be* or fe* or master':
    - match: compound
    - chefha
