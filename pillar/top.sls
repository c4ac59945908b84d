# Only the members may read this pillar: it holds the cluster's secrets.
base:
  'be*':
    - chefha
