# chefha.init finds out by itself what a minion is; where other minions share this master, target the members and masters.
base:
  '*':
    - chefha
