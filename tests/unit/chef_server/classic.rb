fqdn "chef.example.com"
api_fqdn "chef.example.com"
postgresql['external'] = true
postgresql['vip'] = '192.0.2.100'
postgresql['db_superuser'] = 'chef_pgsql'
postgresql['db_superuser_password'] = 'it\'s #{`id`} \\ "so"'
postgresql['sslmode'] = 'require'
opscode_solr4['external'] = true
opscode_solr4['external_url'] = 'http://192.0.2.100:9200'
opscode_erchef['search_provider'] = 'elasticsearch'
opscode_erchef['search_queue_mode'] = 'batch'
bookshelf['storage_type'] = :sql
rabbitmq['enable'] = false
rabbitmq['management_enabled'] = false
rabbitmq['queue_length_monitor_enabled'] = false
opscode_expander['enable'] = false
dark_launch['actions'] = false
opscode_erchef['nginx_bookshelf_caching'] = :on
opscode_erchef['s3_url_expiry_window_size'] = '50%'
